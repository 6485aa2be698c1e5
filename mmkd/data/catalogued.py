"""The base of datamodules of a catalogue: draws splits and the public set, and deals the rest to peers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from mmkd.bounds import Share, bounded
from mmkd.data.catalogue import DRAWN, PARTS, Catalogue, Chosen, ChosenPublic
from mmkd.data.partition import Dirichlet, Partition
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.data.splitting import dealt, stratified
from mmkd.data.texts import TextView
from mmkd.functional.random import generator, key
from mmkd.names import near
from mmkd.types import NO_LABEL, ConfigError, Modality, PeerName, Views

_TRAIN, _VAL, _TEST, _PUBLIC = range(len(PARTS))


@bounded
class CatalogueData(PeerDataModule):
    """Data of a catalogue. A subclass writes ``catalogue`` and says which modalities there are.

    Parts that the catalogue does not name are drawn: validation and test samples so that every class has its
    share, and in whole groups, if there are any; then public samples, without a look at their labels, from
    those that nobody owns. No sample is in two parts. A peer's private samples are those that the catalogue
    says it owns; else those of its own groups, or of a partition for each modality. Peers of a modality are
    evaluated on the same samples.

    Args:
        val: share for validation of the samples whose part is open (or else of the training samples), where
            the catalogue names none.
        test: their share for tests, where the catalogue names none.
        public: share of what is left that is drawn to be public, where the catalogue names none.
        partition: decides who owns which private sample, where the catalogue does not. Left out, groups
            are dealt whole, or else ``Dirichlet(0.1)`` draws shares of classes.
        **kwargs: arguments of ``PeerDataModule``.
    """

    def __init__(
        self,
        *,
        val: Share = 0.1,
        test: Share = 0.2,
        public: Share = 0.2,
        partition: Partition | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if val + test >= 1:
            raise ConfigError(f"val and test are shares that leave something: {val} and {test} do not")
        self.shares = {"val": val, "test": test, "public": public}
        self.partition = partition
        self._kept: dict[tuple[str, Modality], Dataset[Any]] = {}
        self._dealt: dict[tuple[str, ...], dict[PeerName, Int[Tensor, " _"]]] = {}

    @abstractmethod
    def catalogue(self) -> Catalogue:
        """All samples; called once.

        Raises:
            ConfigError: they are not there, or something is wrong with them.
        """

    @cached_property
    def samples(self) -> Catalogue:
        """The catalogue, with the part of every sample."""
        drawn = self._drawn(self.catalogue())
        for part, name in enumerate(PARTS):
            if part != _PUBLIC and not bool((drawn.part == part).any()):
                raise ConfigError(f"no sample is left for {name}: name some, or raise its share")
        return drawn

    def rows(self, part: str) -> Int[Tensor, " _"]:
        """The samples of a part: train, val, test or public."""
        return (self.samples.part == PARTS.index(part)).nonzero()[:, 0]

    def private(self, peer: PeerName, split: str) -> Dataset[Any]:
        """The samples that a peer owns; those of val and test are one object for all peers of a modality.

        Raises:
            ConfigError: the samples cannot be dealt to so many peers.
        """
        modality = self.peers[peer]
        if split != "train":
            if (split, modality) not in self._kept:
                self._kept[split, modality] = self._chosen(self._showing(split, modality), modality)
            return self._kept[split, modality]
        return self._chosen(self._owned(peer, modality), modality)

    def public(self, split: str) -> Dataset[Any]:
        """The public samples in all modalities, whatever the split."""
        rows, samples = self.rows("public"), self.samples
        views = {m: view.whole() for m, view in samples.views.items()}
        if any(view is None for view in views.values()):
            return ChosenPublic(samples, rows)
        shown = {m: there[rows] for m, there in samples.shown.items()}
        return PublicSamples({m: _picked(view, rows) for m, view in views.items()}, shown)

    def public_labels(self) -> Int[Tensor, " samples"]:
        """Labels of the public samples, which are read only by methods with a setting for it."""
        return self.samples.y[self.rows("public")]

    def text_of(self, ids: Int[Tensor, " tokens"]) -> str:
        """A text for people from the tokens of a sample."""
        view = self._text_view()
        return super().text_of(ids) if view is None else view.text(ids)

    def tokenizer(self) -> str | None:
        """The tokenizer that made texts into tokens."""
        view = self._text_view()
        return super().tokenizer() if view is None else view.tokenizer()

    def _text_view(self) -> TextView | None:
        return next((view for view in self.samples.views.values() if isinstance(view, TextView)), None)

    # --- who owns what -----------------------------------------------------------------------------

    def _showing(self, part: str, modality: Modality) -> Int[Tensor, " _"]:
        """The samples of a part of which every view of a modality is there."""
        rows = self.rows(part)
        there = torch.stack([self.samples.shown[m][rows] for m in modality.split("+")])
        return rows[there.all(0)]

    def _owned(self, peer: PeerName, modality: Modality) -> Int[Tensor, " _"]:
        """The samples of a peer, which are dealt to all of its modality at once."""
        peers = self.of(modality)
        if (modality, *peers) not in self._dealt:
            rows = self._showing("train", modality)
            owner = self.samples.owner
            if owner is not None:
                self._check_owners(owner)
            parts = self._shared_out(rows, len(peers), modality) if owner is None else _of(rows, owner, peers)
            self._dealt[modality, *peers] = dict(zip(peers, parts, strict=True))
        return self._dealt[modality, *peers][peer]

    def _shared_out(self, rows: Int[Tensor, " _"], peers: int, modality: Modality) -> list[Int[Tensor, " _"]]:
        """Rows of each peer of a modality, where the catalogue names no owners."""
        samples, stream = self.samples, key(self.seed, "owners", modality)
        try:
            if self.partition is None and samples.group is not None:
                parts = dealt(samples.group[rows], peers, generator(stream))
            else:
                parts = (self.partition or Dirichlet(0.1))(samples.y[rows], peers, stream)
        except ValueError as error:
            raise ConfigError(f"{modality} samples cannot be dealt: {error}") from error
        return [rows[part] for part in parts]

    def _check_owners(self, owner: Sequence[str]) -> None:
        if odd := sorted({*owner} - {""} - self.peers.keys()):
            raise ConfigError(
                f"'{odd[0]}' owns samples and is no peer{near(odd[0], list(self.peers))}: name its fleet in"
                " model.peers, or leave its samples out"
            )

    def _chosen(self, rows: Int[Tensor, " _"], modality: Modality) -> Dataset[Any]:
        """Samples in memory, if their views are, or else read as they are asked for."""
        samples, parts = self.samples, modality.split("+")
        views = {m: samples.views[m].whole() for m in parts}
        if any(view is None for view in views.values()):
            return Chosen(samples, rows, parts)
        x = {m: _picked(view, rows) for m, view in views.items()}
        return Samples(next(iter(x.values())) if len(x) == 1 else x, samples.y[rows], rows)

    # --- parts that are drawn ----------------------------------------------------------------------

    def _drawn(self, catalogue: Catalogue) -> Catalogue:
        part = catalogue.part.clone()
        group = catalogue.group
        open_ = (part == (DRAWN if bool((part == DRAWN).any()) else _TRAIN)).nonzero()[:, 0]
        wanted = [p for p in (_VAL, _TEST) if not bool((part == p).any())]
        shares = [self.shares[PARTS[p]] for p in wanted]
        cut = stratified(catalogue.y[open_], _numbered(group, open_), shares, generator(self.seed, "parts"))
        for p, places in zip([*wanted, _TRAIN], cut, strict=True):
            part[open_[places]] = p
        if not bool((part == _PUBLIC).any()):
            owned = [bool(name) for name in catalogue.owner or [""] * len(part)]
            free = ((part == _TRAIN) & ~torch.tensor(owned)).nonzero()[:, 0]
            unread = torch.zeros_like(free)  # in place of labels
            stream = generator(self.seed, "public")
            groups, share = _numbered(group, free), self.shares["public"]
            public, _ = stratified(unread, groups, [share], stream)
            if groups is not None and share > 0 and not len(public):  # a share of few large groups is one
                drawn = torch.randint(len(free), (1,), generator=stream)
                public = (groups == groups[drawn]).nonzero()[:, 0]
            part[free[public]] = _PUBLIC
        if bool(((part != _PUBLIC) & (catalogue.y == NO_LABEL)).any()):
            raise ConfigError("only public samples may be without a label")
        return catalogue._replace(part=part)


def _of(rows: Int[Tensor, " _"], owner: Sequence[str], peers: Sequence[PeerName]) -> list[Int[Tensor, " _"]]:
    """Rows of each peer, as the catalogue names their owners."""
    found: dict[PeerName, list[int]] = {peer: [] for peer in peers}
    for row in rows.tolist():
        if owner[row] in found:
            found[owner[row]].append(row)
    return [torch.tensor(own, dtype=torch.long) for own in found.values()]


def _numbered(group: Tensor | None, rows: Int[Tensor, " _"]) -> Int[Tensor, " _"] | None:
    """Groups of some rows, numbered from 0 on."""
    return None if group is None else group[rows].unique(return_inverse=True)[1]


def _picked(view: Views | None, rows: Int[Tensor, " _"]) -> Views:
    return tree_map(lambda leaf: leaf[rows], view)

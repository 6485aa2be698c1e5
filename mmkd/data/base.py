"""The interfaces between data and cohorts: ``PeerData`` for datamodules, ``PeerModule`` for cohorts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.augmentation import Augmentation
from mmkd.augmentation.base import check
from mmkd.bounds import Bound, Size, bounded
from mmkd.data.reader import PublicReader, Reader, length, pieces
from mmkd.functional.classification import class_counts
from mmkd.schedule import Timetable
from mmkd.students.labels import ClassLabels, LabelError, Labels
from mmkd.types import ConfigError, Modality, PeerName, Views

LOOKED_AT = 256
"""Samples of a peer that are read at once when its student looks at them."""


@bounded
class PeerData(ABC):
    """Private samples of each peer, and public ones of all. A subclass writes ``private`` and ``public``.

    Args:
        batch_size: private samples per local step of a peer.
        public_batch_size: public samples per local step that distils; ``batch_size`` if left out.
        seed: keys the split, the partition and the order of batches.
        num_workers: processes that read batches ahead; samples held in memory want 0, sounds that are
            augmented 2 or more (docs/speed.md).
        drop_last: leave out the short batch at the end of a local epoch (which is reshuffled, so no
            sample is left out for good). A peer with fewer samples than ``batch_size`` keeps them all.
        augment: what samples of a modality go through while students learn from them, in this order; they are
            evaluated on samples as they are.
        augment_public: whether public samples do, too, when students learn from them; what is said about them
            is said about samples as they are.
        peers: name and modality of every peer.
    """

    num_classes: int
    """What a student predicts for a sample: how many classes, tags, or values of a regression."""
    modalities: tuple[Modality, ...]

    def __init__(
        self,
        *,
        batch_size: Size = 32,
        public_batch_size: Size | None = None,
        seed: int = 0,
        num_workers: Annotated[int, Bound(0, 1000)] = 0,
        drop_last: bool = True,
        augment: dict[Modality, list[Augmentation]] | None = None,
        augment_public: bool = False,
        peers: Mapping[PeerName, Modality] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.public_batch_size = public_batch_size or batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.augment, self.augment_public = augment or {}, augment_public
        self.peers: dict[PeerName, Modality] = {}
        self.own: list[PeerName] = []
        """Peers whose samples this process reads; those of the others are on other machines."""
        self.ids: dict[PeerName, str] = {}
        self._given: dict[tuple[PeerName, str], Dataset[Any]] = {}
        self.labels: Mapping[str, Mapping[PeerName, Labels]] = {}
        """Kinds of labels that are read, by split and peer; any labels, where none is named."""
        if peers:
            self.assign(peers)

    @abstractmethod
    def private(self, peer: PeerName, split: str) -> Dataset[Any]:
        """Labelled samples of one peer in its modality; ``split`` is train, val or test.

        A peer of several modalities gets samples whose ``x`` is a dictionary of views. Whoever reads them
        asks ``held``, so this is called once for each peer and split.

        Return the same object for peers that are evaluated on the same samples: it is then read once.
        """

    def held(self, peer: PeerName, split: str) -> Dataset[Any]:
        """What ``private`` has given, kept until ``assign`` is called anew."""
        if (peer, split) not in self._given:
            self._given[peer, split] = self.private(peer, split)
        return self._given[peer, split]

    @abstractmethod
    def public(self, split: str) -> Dataset[Any]:
        """Unlabelled samples that every peer can see: ``{modality: view or None}`` for each id."""

    def public_labels(self) -> Int[Tensor, " samples"]:
        """Labels of the public training samples, for a method with a setting that reads them.

        Raises:
            ConfigError: these data have none.
        """
        raise ConfigError(
            f"{type(self).__name__} has no labels for its public samples; leave knowledge.pretrain out, or"
            " write public_labels in your datamodule"
        )

    def read_public_labels(self) -> Int[Tensor, " samples"]:
        """``public_labels``, if they are one class for each public sample.

        Raises:
            ConfigError: they are not, or there are none.
        """
        labels, size = self.public_labels(), len(self.public_reader("train"))
        if len(labels) != size:
            raise ConfigError(
                f"there are {size} public samples and {len(labels)} labels of them; give one each"
            )
        try:
            if labels.dim() > 1:
                raise LabelError(
                    f"labels of shape {list(labels.shape[1:])}, and a class is one whole number", 0
                )
            return ClassLabels(self.num_classes).read(labels)
        except LabelError as error:
            raise ConfigError(f"the public samples have {error} (first: sample {error.place})") from error

    def least_batch(self, peer: PeerName, parts: int = 1) -> int:
        """The fewest samples that a peer's student reads at once, of a local batch cut into ``parts``."""
        size = self.samples_of(peer)
        least = min(size, self.batch_size)
        if not self.drop_last and size > self.batch_size:
            least = size % self.batch_size or least
        return max(1, least // parts)

    def assign(self, peers: Mapping[PeerName, Modality], ids: Mapping[PeerName, str] | None = None) -> None:
        """Set the peers. ``ids`` key their random streams and default to the names.

        A peer may read several modalities at once, such as "image+text". What ``held`` keeps is forgotten.

        Raises:
            ConfigError: a peer has a modality that these data lack.
        """
        check(self.augment, self.modalities)
        for peer, modality in peers.items():
            for part in modality.split("+"):
                if part not in self.modalities:
                    raise ConfigError(
                        f"peer '{peer}' reads '{part}', which {type(self).__name__} does not have"
                        f" (it has {', '.join(self.modalities)}); remove the fleet or change the data"
                    )
        self._given, self.peers, self.own = {}, dict(peers), list(peers)
        self.ids = {peer: (ids or {}).get(peer, peer) for peer in peers}

    def of(self, modality: Modality) -> list[PeerName]:
        """The peers of one modality, ordered by id, so that the order of a configuration has no effect."""
        return sorted((p for p, m in self.peers.items() if m == modality), key=self.ids.__getitem__)

    def reader(self, peer: PeerName, split: str) -> Reader:
        """Reads what ``held`` returns, and refuses samples that are wrong.

        Raises:
            ConfigError: the samples are held in memory and one of them is wrong, or they have no length.
        """
        return self.read(self.held(peer, split), peer, split)

    def read(self, data: Dataset[Any], peer: PeerName, split: str) -> Reader:
        """Reads samples as those of a peer; see ``reader``."""
        labels = self.labels.get(split, {}).get(peer)
        return Reader(data, f"the {split} samples of peer '{peer}'", labels)

    def public_reader(self, split: str) -> PublicReader:
        """Reads what ``public`` returns, and refuses samples that are wrong.

        Raises:
            ConfigError: there are none, they are held in memory and one of them is wrong, or they have no
                length.
        """
        reader = PublicReader(self.public(split))
        if len(reader) == 0:
            raise ConfigError("there are no public samples to distil on; raise the data's public part")
        return reader

    def text_of(self, ids: Int[Tensor, " tokens"]) -> str:
        """A text for people from the tokens of a sample, of which 0 is padding: ASCII, or numbers."""
        kept = [int(i) for i in ids if int(i)]
        if kept and all(32 <= i < 127 for i in kept):
            return "".join(map(chr, kept))
        return " ".join(map(str, kept[:12])) + (" ..." if len(kept) > 12 else "")

    def tokenizer(self) -> str | None:
        """What makes a text into the tokens of a sample, as JSON of the tokenizers library.

        None, if each character is a token, its ASCII code, or if there are no texts.
        """
        return None

    def label_counts(self, peer: PeerName) -> Shaped[Tensor, " classes"]:
        """How many private training samples of each class a peer has; or objects in them.

        Of soft labels and of tags, sums of their shares. Samples without a label do not count, nor do values.
        """
        return class_counts(self.reader(peer, "train").all_labels(), self.num_classes)

    def views(self, peer: PeerName) -> Iterator[Views]:
        """A peer's private training samples as they are, some at a time."""
        reader = self.reader(peer, "train")
        for places in pieces(len(reader), LOOKED_AT):
            yield reader.batch(places, 0).x

    def samples_of(self, peer: PeerName) -> int:
        """How many private training samples a peer has."""
        return length(self.held(peer, "train"), f"the train samples of peer '{peer}'")

    def steps_per_epoch(self, peer: PeerName) -> int:
        """Local steps in one pass over the peer's private training samples.

        Raises:
            ConfigError: the peer has no samples.
        """
        size = self.samples_of(peer)
        if size == 0:
            raise ConfigError(
                f"peer '{peer}' has no private samples; give it some (min_size of a partition) or have fewer"
                " peers"
            )
        whole, rest = divmod(size, self.batch_size)
        return max(1, whole + (rest > 0 and not self.drop_last))

    def samples_per_step(self, peer: PeerName) -> float:
        """Samples that a peer reads in a local step, on average over a pass."""
        size = self.samples_of(peer)
        if self.drop_last and size > self.batch_size:
            return float(self.batch_size)
        return size / self.steps_per_epoch(peer)


class PeerModule(ABC):
    """What a datamodule needs to know of the module that trains on it: which peer reads what, and when."""

    names: list[PeerName]
    """The peers that train here."""
    timetable: Timetable
    """The ticks at which each peer steps; set when the module is set up."""

    @property
    @abstractmethod
    def roster(self) -> tuple[dict[PeerName, Modality], dict[PeerName, str]]:
        """Modality and id of every peer."""

    @abstractmethod
    def labels(self, split: str) -> Mapping[PeerName, Labels]:
        """Kinds of labels that are read: in training by students, elsewhere by what scores their answers."""

    @property
    @abstractmethod
    def together(self) -> Sequence[Sequence[PeerName]]:
        """Peers whose batches may be stacked."""

    @property
    @abstractmethod
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""

"""Distillation at a hub, which trains averaged weights on public samples towards what peers predict there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

from mmkd.cohort.groups.sequential import Call, predictions_of
from mmkd.cohort.peers import Peers
from mmkd.cohort.scaling import unscaled
from mmkd.coordination.public_set import evaluate, see_public, some
from mmkd.coordination.speaking import finite_rows
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.functional.consensus import mean_logit
from mmkd.functional.distillation import kd
from mmkd.functional.random import generator, key, keyed
from mmkd.functional.trees import Tree
from mmkd.ledger import Ledger
from mmkd.types import Classes, ConfigError, PeerName


class HubDistillation:
    """Predicts public samples with the peers' weights at the end of a round, and trains the average on them.

    Args:
        peers: of the cohort.
        data: holds the public samples.
        ledger: counts what the hub computes.
        hub: its name.

    Raises:
        ConfigError: a student predicts no class probabilities, or has trainable parameters that never leave
            its peer.
    """

    def __init__(self, peers: Peers, data: PeerData, ledger: Ledger, hub: str) -> None:
        for group in peers.groups:
            student = group.students()[0]
            if student.gives is not Classes:
                raise ConfigError(
                    f"FedDF's hub distils class probabilities, and {type(student).__name__} gives"
                    f" {student.gives.__name__}: choose FedAvg"
                )
            kept = [n for n, p in student.named_parameters() if p.requires_grad and n in student.personal]
            if kept:
                raise ConfigError(
                    f"FedDF's hub predicts with students as peers have them, but '{kept[0]}' never leaves"
                    f" '{group.names[0]}'; choose FedAvg, or take it out of {type(student).__name__}.personal"
                )
        self._peers, self._data, self._ledger, self._hub = peers, data, ledger, hub
        self._public = see_public(peers, data)
        self._logits: dict[PeerName, tuple[Tensor, Tensor]] = {}

    def ask(self, peers: Sequence[PeerName], round: int) -> None:
        """Read the public set with the weights of ``peers``, before any of them are averaged.

        Raises:
            DivergedError: a peer predicts what is no number, and the run is to stop.
        """
        self._logits = {}
        for number, chosen, predicted in evaluate(self._peers, self._peers.rows_of(peers), self._public, 0):
            assert isinstance(predicted, Classes)
            shown = view_of(self._public, self._peers.modality(number))[1]
            well = finite_rows(predicted.logits, logits=True).tolist()
            for row, logits, finite in zip(chosen, predicted.logits, well, strict=True):
                name = self._peers.groups[number].names[row]
                if not finite:
                    self._peers.divergence.leave({name: "what it predicts is not finite"}, round)
                    continue
                self._logits[name] = logits, shown
                self._ledger.compute(self._hub, len(shown) * self._peers.everybody[name].predict)

    @torch.enable_grad()
    def teach(
        self,
        x: Tree,
        peers: Sequence[PeerName],
        round: int,
        *,
        steps: int,
        batch_size: int,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        across: bool,
    ) -> Tree:
        """Weights of a student like those of ``peers``, trained towards the mean logits."""
        teachers = [name for name in self._logits if across or name in peers]
        heard, spoke = (torch.stack([self._logits[name][i] for name in teachers]) for i in (0, 1))
        everybody = torch.ones(1, len(teachers), dtype=torch.bool, device=heard.device)
        target, anybody = mean_logit(heard, everybody, spoke)
        number, _ = self._peers.axis.group_of(peers[:1])
        modality = self._peers.modality(number)
        useful = (view_of(self._public, modality)[1] & anybody[0]).nonzero().flatten()
        student = self._peers.student(peers[0])
        buffers = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
        leaves = {n: leaf[0].detach().clone().requires_grad_() for n, leaf in x.items()}
        engine = optimizer(list(leaves.values()))
        name: list[int | str] = [self._data.seed, "hub", *(self._peers.ids[peer] for peer in peers), round]
        order = torch.randint(len(useful), (steps, min(batch_size, len(useful))), generator=generator(*name))
        weights = {f"student.{n}": leaf for n, leaf in leaves.items()}
        for i, chosen in enumerate(order):
            ids = useful[chosen.to(useful.device)]
            view, _ = view_of(some(self._public, ids), modality)
            with keyed(key(*name, i), self._peers.device), unscaled(self._peers.device):
                said = functional_call(Call(student), {**buffers, **weights}, (predictions_of, view))
            loss = kd(said.logits[None], target[:, ids], temperature=1.0)
            engine.zero_grad()
            loss.sum().backward()
            engine.step()
            self._ledger.compute(self._hub, len(ids) * self._peers.everybody[peers[0]].train)
        return {n: leaf.detach()[None] for n, leaf in leaves.items()}

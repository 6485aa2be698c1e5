"""A hub that has the weights of peers and the public samples, and teaches averaged weights with both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.groups.sequential import Method
from mmkd.coordination.delivery import Post
from mmkd.coordination.public_set import evaluate, see_public, some
from mmkd.cost.flops import Flops
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.functional.consensus import mean_logit
from mmkd.functional.distillation import kd
from mmkd.functional.random import generator, key, keyed
from mmkd.functional.trees import Tree
from mmkd.students.detection import DetectionStudent
from mmkd.types import ConfigError, PeerName, Public


class Ensemble:
    """What peers predict on public samples at the end of a round, at the hub.

    Args:
        cohort: holds the students.
        data: holds the public samples.
        post: has the ledger, in which what the hub computes is counted.
        hub: its name.
    """

    def __init__(self, cohort: Cohort, data: PeerData, post: Post, hub: str) -> None:
        self._cohort, self._data, self._post, self._hub = cohort, data, post, hub
        self._public: Public = see_public(cohort, data)
        self.flops: Mapping[PeerName, Flops] = {}
        self._logits: dict[PeerName, tuple[Tensor, Tensor]] = {}

    def prepare(self, flops: Mapping[PeerName, Flops]) -> None:
        """Bring public samples to the device.

        Raises:
            ConfigError: a student says no class probabilities, or has trainable parameters that never leave
                its peer.
        """
        for _, group in self._cohort.rows():
            student = group.students()[0]
            if isinstance(student, DetectionStudent):
                raise ConfigError(
                    "FedDF's hub distils class probabilities; detectors have none: choose FedAvg"
                )
            kept = [n for n, p in student.named_parameters() if p.requires_grad and n in student.personal]
            if kept:
                raise ConfigError(
                    f"FedDF's hub predicts with students as peers have them, but '{kept[0]}' never leaves"
                    f" '{group.names[0]}'; choose FedAvg, or take it out of {type(student).__name__}.personal"
                )
        self.flops = flops
        self._public = self._cohort.transfer_batch_to_device(self._public, self._cohort.device, 0)

    def ask(self, peers: Sequence[PeerName]) -> None:
        """Read the public set with the weights of ``peers``, before any of them are averaged."""
        wanted, self._logits = set(peers), {}
        rows = {
            number: [row for row, name in enumerate(group.names) if name in wanted]
            for number, group in self._cohort.rows()
        }
        for number, chosen, predicted in evaluate(self._cohort, rows, self._public, 0):
            shown = view_of(self._public, self._cohort.modality(number))[1]
            for row, logits in zip(chosen, predicted.logits, strict=True):
                name = self._cohort.rows()[number][1].names[row]
                self._logits[name] = logits, shown
                self._post.ledger.compute(self._hub, len(shown) * self.flops[name].predict)

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
        target, told = mean_logit(heard, everybody, spoke)
        number, _ = self._cohort.axis.group_of(peers[:1])
        modality = self._cohort.modality(number)
        useful = (view_of(self._public, modality)[1] & told[0]).nonzero().flatten()
        student = self._cohort.student(peers[0])
        buffers = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
        leaves = {n: leaf[0].detach().clone().requires_grad_() for n, leaf in x.items()}
        engine = optimizer(list(leaves.values()))
        name: list[int | str] = [self._data.seed, "hub", *(self._cohort.ids[peer] for peer in peers), round]
        order = torch.randint(len(useful), (steps, min(batch_size, len(useful))), generator=generator(*name))
        weights = {f"student.{n}": leaf for n, leaf in leaves.items()}
        for i, chosen in enumerate(order):
            ids = useful[chosen.to(useful.device)]
            view, _ = view_of(some(self._public, ids), modality)
            with keyed(key(*name, i), self._cohort.device):
                said = functional_call(Method(student), {**buffers, **weights}, ("predict", view))
            loss = kd(said.logits[None], target[:, ids], temperature=1.0)
            engine.zero_grad()
            loss.sum().backward()
            engine.step()
            self._post.ledger.compute(self._hub, len(ids) * self.flops[peers[0]].train)
        return {n: leaf.detach()[None] for n, leaf in leaves.items()}

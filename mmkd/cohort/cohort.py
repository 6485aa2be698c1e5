"""The LightningModule of many peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.amp import GradScaler
from torchmetrics import Metric

from mmkd.bounds import Count, Positive, Share, Size, bounded
from mmkd.cohort.build import Vectorize, build_groups
from mmkd.cohort.coordinator import NOTHING, Coordination, Coordinator, Needs
from mmkd.cohort.divergence import Absence, Divergence, OnDivergence
from mmkd.cohort.fleet import Fleet, check_head
from mmkd.cohort.garbage import FrozenGarbage
from mmkd.cohort.groups.row_optimizer import CohortOptimizer
from mmkd.cohort.joining import coordination_of, join
from mmkd.cohort.losses import Losses
from mmkd.cohort.optimizers import optimizer_of
from mmkd.cohort.peer_axis import PeerAxis
from mmkd.cohort.peers import Peers
from mmkd.cohort.precision import as_read
from mmkd.cohort.reading import Predicted, count, learn_labels, predicted
from mmkd.cohort.resuming import Resuming
from mmkd.cohort.saving import write_student
from mmkd.cohort.scaling import unscale
from mmkd.cohort.step import Differentiation, without
from mmkd.cohort.summary import FleetSummary, instead_of_modules
from mmkd.cohort.trainer_options import check_limits, check_options
from mmkd.cohort.trial import check_data, try_students
from mmkd.cohort.ways import Ways
from mmkd.cost.profiler import timed
from mmkd.data.base import PeerData, PeerModule
from mmkd.evaluation.accuracy import Head
from mmkd.evaluation.kinds import scores_of
from mmkd.evaluation.logged import by_peer, with_means
from mmkd.evaluation.scores import Scores
from mmkd.students.base import Student
from mmkd.students.labels import Labels
from mmkd.types import Block, Evaluation, Modality, PeerName, Step


@bounded
class Cohort(LightningModule, PeerModule):
    """Trains all peers of a process side by side; the loss is the sum of theirs, so they do not couple.

    Peers of one fleet form a group, which steps vectorised or one by one. The peer axis is ordered by id.

    Args:
        peers: fleets by name; peers are called ``fleet/0``, ``fleet/1``, ...
        num_classes: classes of the data (linked from the datamodule in a configuration).
        init: ``shared`` starts equal architectures from one draw, as averaging needs; ``own`` draws for each.
        vectorize: ``always``, ``never``, or ``auto``: as a measured table of students has it
            (``groups/choice.py``), which depends on nothing but the configuration.
        clip: greatest L2 norm of each peer's gradient; none if left out.
        accumulate: parts into which a local batch is cut, whose gradients are added up: the same step
            in less memory (normalisation statistics are then those of the parts). A student whose loss is
            divided by something else than samples says so in ``Student.terms``.
        head: which head's accuracy and probabilities are a peer's: the ``main`` one, the ``last`` auxiliary
            one, the ``best`` on validation samples, or the ``ensemble`` of all. Every head has metrics.
        compile: ``record`` records the tensor operations of a vectorised step once and replays them, so
            that small students cost less Python; ``inductor`` has ``torch.compile`` make code of them, which
            takes half a minute for each shape and a C++ compiler. Either is for students whose Python does
            the same in every step; one that cannot be recorded runs as it is, after a warning.
        peers_per_chunk: how many peers of a fleet that trains vectorised go through their students together;
            ``auto`` keeps at most a gigabyte for the backward pass. Out of memory, the number is halved.
        threshold: score from which on a detection counts for precision and recall.
        metrics: further metrics of torchmetrics, by their names in the log; each peer has copies of its own.
        on_divergence: when a peer's loss or weights are not finite, or its weights leap (``divergence.py``),
            ``stop``, or let it ``sit_out`` from then on with the weights with which it was last seen.
        park: folder for the tensors of peers that sit out, in files that are mapped into memory and
            deleted with the process; in memory if left out. For fleets that train vectorised on a CPU.
        seed: keys the initial weights.
        own: peers of this process; all others are in other processes, which the transport reaches. All, if
            left out.
    """

    def __init__(
        self,
        peers: dict[str, Fleet],
        num_classes: Size,
        *,
        init: Literal["shared", "own"] = "shared",
        vectorize: Vectorize = "auto",
        clip: Positive | None = None,
        accumulate: Count = 1,
        head: Head = "main",
        compile: Literal["never", "record", "inductor"] = "never",
        peers_per_chunk: Count | Literal["auto"] = "auto",
        threshold: Share = 0.5,
        metrics: dict[str, Metric] | None = None,
        on_divergence: OnDivergence = "stop",
        park: str | Path | None = None,
        seed: int = 0,
        own: list[PeerName] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.num_classes, self.vectorize, self.peers_per_chunk = num_classes, vectorize, peers_per_chunk
        self.clip, self.accumulate, self.head, self.compile_ = clip, accumulate, head, compile
        self._settings = {"init": init, "clip": clip, "accumulate": accumulate, "head": head}
        self.on_divergence = on_divergence
        self._coordination: Coordination | None = None
        self.metrics: dict[PeerName, dict[str, float]] = {}
        built = build_groups(
            peers, num_classes, shared=init == "shared", vectorize=vectorize, park=park, seed=seed, own=own
        )
        check_head(head, [group.students()[0] for group in built.groups])
        self._built, self.fleets, self._modalities = built, built.fleets, built.modalities
        self.names = [member.name for member in built.members]
        self.ids = {member.name: member.id for member in built.members}
        self.groups = nn.ModuleList(built.groups)
        self._listed = built.groups  # iterating over a ModuleList is slow
        self.axis = PeerAxis(built.groups)
        self.ways = Ways(built.fleets, built.groups, self.groups, auto=vectorize == "auto")
        """How each fleet trains, and why."""
        self.gives = built.groups[0].students()[0].gives
        """Kind of what the students predict."""
        self._scores: Scores = scores_of(self.gives, num_classes, head, threshold, metrics)

    # --- the peers ---------------------------------------------------------------------------------

    @property
    def roster(self) -> tuple[dict[PeerName, Modality], dict[PeerName, str]]:
        """Modality and id of every peer, those in other processes among them."""
        return self._built.roster

    @property
    def together(self) -> list[list[PeerName]]:
        """Peers whose batches may be stacked: those of each group."""
        return [group.names for group in self._listed]

    @property
    def coordinator(self) -> Coordinator | None:
        """The coordinator of the fit under way, if there is one."""
        return self._coordination.coordinator if self._coordination is not None else None

    @property
    def scores(self) -> Scores:
        """The scores of the peers on evaluation samples, and the metric by which they are compared."""
        return self._scores

    @property
    def absent(self) -> dict[PeerName, Absence]:
        """Peers that have diverged and sit out: since which round, and why."""
        return self._divergence.absent

    def labels(self, split: str) -> dict[PeerName, Labels]:
        """Kinds of labels: those from which each student learns, elsewhere those that are scored."""
        return self.axis.learns_from() if split == "train" else dict.fromkeys(self.names, self._scores.labels)

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self._coordination is not None and self._coordination.draws_public

    @property
    def peers(self) -> Peers:
        """The peers as a coordinator sees them; known once the cohort is set up."""
        return Peers(
            self.names,
            self.ids,
            self.roster[0],
            self.everybody,
            self._listed,
            self.axis,
            self.timetable,
            self._losses,
            self._divergence,
            self.device,
            self.num_classes,
            self.accumulate,
            self.clip is not None,
            self.dtype,  # type: ignore[arg-type]  # Lightning types it too widely
        )

    def student(self, name: PeerName) -> Student:
        """A real student on the peer's current tensors; ``copy.deepcopy`` it to keep it."""
        group, row = self.axis.locate(name)
        return group.student(row)

    def save_student(self, name: PeerName, path: str | Path) -> None:
        """Write a Lightning checkpoint that the student's class loads with ``load_from_checkpoint``."""
        write_student(self.student(name), path, epoch=self.current_epoch, step=self.global_step)

    # --- Lightning: setting up ---------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Read from the data how many samples each peer owns, and make the timetable.

        Raises:
            ConfigError: the data have another number of classes, or a peer has no samples or wrong ones.
        """
        data: PeerData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        check_data(data, self.num_classes)
        for group in self._listed:
            for student in group.students():
                student.trainer = self.trainer
        learn_labels(self._listed, data, self._scores)
        self._coordination = coordination_of(self.trainer)
        if stage == "fit" or not hasattr(self, "timetable"):  # a test after a fit counts the fit's rounds
            planner = self._coordination if stage == "fit" else None
            leave, dtype = self.on_divergence == "sit_out", self.dtype
            joined = join(planner, self._built, data, dtype, self._settings, may_leave=leave)  # type: ignore[arg-type]  # as in peers
            self.everybody, self.timetable = joined
            self._losses = Losses(self.timetable)
            self._divergence = Divergence(self.on_divergence, self.axis, self._losses, self.timetable)
        if stage == "fit":
            check_limits(self.trainer, self.timetable)

    def configure_callbacks(self) -> list[Callback]:
        """Callbacks that stop the search for garbage while a cohort trains, and print its fleets."""
        check_options(self.trainer)  # here, because Lightning asks for callbacks before anything else
        summary = FleetSummary(self._listed, self._modalities)
        resuming = Resuming(self._built, self._settings)
        return [FrozenGarbage(), resuming, *instead_of_modules(self.trainer, summary)]

    def configure_optimizers(self) -> CohortOptimizer:
        """Choose how each group trains, then give every peer the optimizer that its student asks for."""
        data: PeerData = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        try_students(self._listed, data, self.accumulate, self.draws_public, self.trainer.precision_plugin)
        self.ways.choose(data, self.peers.to_device, self.trainer)
        chunk = None if self.peers_per_chunk == "auto" else self.peers_per_chunk
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return optimizer_of(self._listed, self._built.scales, chunk, "never" if scaled else self.compile_)

    # --- Lightning: training -----------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Note with which weights training begins, from which peers may diverge."""
        self._divergence.begin()

    def training_step(self, block: Block, batch_idx: int) -> None:
        """The local steps of a block, and the exchanges that fall into it."""
        optimizer, coordinator = self.optimizers(), self.coordinator
        for step in as_read(block.steps, self.dtype):  # type: ignore[arg-type]  # as in peers
            self._tick(step, optimizer, coordinator, coordinator.needs(step.tick) if coordinator else NOTHING)
        if block.steps:  # there are none, where a run goes on behind a block that it had taken
            self._divergence.heed_losses(self.timetable.round_of(block.steps[-1].tick + 1))
        for group in self._listed:  # between batches callbacks read parameters, which then hold all peers
            group.activate(range(len(group.names)))

    @property
    def begins(self) -> int:
        """The first round in which the peers of this process take part."""
        return self._coordination.begins if self._coordination is not None else 0

    def _tick(self, step: Step, optimizer: Any, coordinator: Coordinator | None, needs: Needs) -> None:
        """Take at most one local step of every peer, and call the coordinator before and after it."""
        if self.timetable.round_of(step.tick) < self.begins:
            optimizer.optimizer.active = [[] for _ in self._listed]
            optimizer.step()  # which counts the tick
            return
        if needs.speak:
            self._divergence.look_at_present(step.tick)
        step = without(step, self._divergence.absent)  # a block may have been drawn before they left
        rows = self.axis.activate(step)
        if (factor := self.timetable.factor(step.tick)) is not None:
            for group in self._listed:
                group.follow(factor)
        if coordinator is not None and needs.begin:
            with self._timed("exchange"):
                step = coordinator.begin(step)
        optimizer.optimizer.active = rows
        if step.private:  # at some ticks all peers sit out
            self._differentiation(step, rows, coordinator, needs)
        elif coordinator is not None and needs.teach:  # peers in other processes may exchange knowledge
            coordinator.teach(step, rows)
        if not step.private and (unscale_ := self._unscale) is not None:
            unscale_()
        with self._timed("optimizer"):
            optimizer.step()
        if coordinator is not None and needs.end:
            with self._timed("exchange"):
                coordinator.end(step.tick)
            if self.loggers and self.timetable.ends_round(step.tick):
                figures = {"round": self.timetable.round_of(step.tick), **coordinator.figures(step.tick)}
                with self._timed("logging"):
                    for logger in self.loggers:
                        logger.log_metrics(figures, step=self.global_step)

    @property
    def _differentiation(self) -> Differentiation:
        """The object that computes gradients, made once the groups' ways to train are chosen."""
        of, timed_ = (self._listed, self.axis, self._losses), self._timed
        return Differentiation(*of, self.clip, self.accumulate, self._backward, self._unscale, timed_)

    @property
    def _unscale(self) -> Callable[[], None] | None:
        """A function that divides gradients by the scale of fp16 losses; None without a scaler."""
        scaler: GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        return None if scaler is None else partial(unscale, scaler, self.optimizers().optimizer)  # type: ignore[union-attr]  # a LightningOptimizer

    def _timed(self, part: str) -> AbstractContextManager[Any]:
        return timed(self.trainer, part)

    def _backward(self, loss: Tensor) -> None:
        with self._timed("backward"):
            self.manual_backward(loss)

    def on_train_epoch_end(self) -> None:
        """Log each peer's mean private loss since the last epoch."""
        self.log_dict(by_peer("train/loss", self._losses.means()))

    # --- Lightning: evaluation ---------------------------------------------------------------------

    def validation_step(self, batch: Evaluation, batch_idx: int) -> None:
        """Count the scores of all peers that read this batch."""
        self._count(batch, "val")

    def test_step(self, batch: Evaluation, batch_idx: int) -> None:
        """Count the scores of all peers that read this batch."""
        self._count(batch, "test")

    def _count(self, batch: Evaluation, split: str) -> None:
        count(self._scores, self._predicted(batch, split), batch.y, self._divergence, self._round)

    def predict_step(self, batch: Evaluation, batch_idx: int) -> dict[PeerName, Float[Tensor, "batch ..."]]:
        """Predictions of every peer that reads this batch.

        Class probabilities ``[batch, classes]`` of the setting ``head``; of detectors detections
        ``[batch, slots, 6]``: corners in pixels, score, class; of tags probabilities; of a regression values.
        """
        answers: dict[PeerName, Tensor] = {}
        for _, _, names, predictions in self._predicted(batch, "test"):
            answers |= self._scores.answers(names, predictions)
        return answers

    def _predicted(self, batch: Evaluation, split: str) -> Iterator[Predicted]:
        return predicted(self._listed, batch, split, self.trainer.datamodule, self.absent)  # type: ignore[attr-defined]  # Lightning types it too late

    @property
    def _round(self) -> int:
        """The round of the next tick."""
        return self.timetable.round_of(self.global_step)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of every peer, and their means."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of every peer, and their means."""
        self._report("test")

    def _report(self, split: str) -> None:
        self._divergence.look(self.names, self._round)
        metrics = self._scores.metrics(split)
        self.metrics = {name: own for name, own in metrics.items() if name not in self.absent}
        self.log_dict(with_means(self.metrics, self._modalities, split))

    # --- checkpoints: by peer and parameter name ---------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # keyed by peer
        """Every peer's student as ``peers.<name>.<tensor>``, whatever group it trains in."""
        return {name: tensor.clone() for name, tensor in self.axis.tensors().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take up every peer's student.

        Raises:
            ConfigError: the state is of other peers or other students.
        """
        missing, unexpected = self.axis.load_tensors(state_dict, strict=strict)
        return nn.modules.module._IncompatibleKeys(missing, unexpected)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how each fleet trains, the losses of an unfinished epoch, and who sits out.

        Raises:
            DivergedError: a peer has diverged, so that nothing is written.
        """
        if self._divergence.look(self.names, self._round):
            checkpoint["state_dict"] = self.state_dict()
        checkpoint["mmkd"] = {
            **self.ways.state_dict(),
            "losses": self._losses.state_dict(),
            "divergence": self._divergence.state_dict(),
            "best": dict(self._scores.best),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Train each fleet as the saved run did, and load the losses of its unfinished epoch."""
        saved = checkpoint["mmkd"]
        self._losses.load_state_dict(saved["losses"])
        self._divergence.load_state_dict(saved["divergence"])
        self._scores.best |= saved["best"]
        self.ways.load_state_dict(saved, self.trainer)

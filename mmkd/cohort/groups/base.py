"""The interface of groups: peers whose students share one recipe, each a row, trained side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkd.students.base import Student, Teachable
from mmkd.types import Batch, Batches, ConfigError, PeerName, Predictions, Views


class Group(nn.Module, ABC):
    """Students of one recipe. A row is a peer's place in ``names``, which are in canonical order.

    Every method takes the rows that it concerns, and leaves all others unchanged.
    """

    def __init__(self, names: Sequence[PeerName], ids: Sequence[str]) -> None:
        super().__init__()
        self.names, self.ids = list(names), list(ids)
        """Keys of the rows' random streams."""
        self._places = {name: row for row, name in enumerate(names)}
        # Computed once for each set of frozen parameters: searching students takes longer than a step.
        self._walked: list[list[nn.Parameter]] = []
        self._travelling: dict[tuple[bool, ...], list[str]] = {}
        self._shapes: dict[tuple[bool, ...], dict[str, torch.Size]] = {}

    def rows(self, peers: Sequence[PeerName]) -> list[int]:
        """The rows of peers, in their order."""
        return [self._places[peer] for peer in peers]

    @abstractmethod
    def activate(self, rows: Sequence[int]) -> None:
        """Prepare for local steps of these rows, for speed alone: results do not depend on it."""

    @abstractmethod
    def differentiate(
        self,
        batches: Batches,
        scale: Float[Tensor, " rows"] | None,
        backward: Callable[[Float[Tensor, ""]], None],
    ) -> Float[Tensor, " rows"]:
        """Mean loss (``objective``) of each peer of ``batches``; its gradient is added to the row's gradient.

        Args:
            batches: private samples of peers.
            scale: factor of each peer's gradient; 1, if left out.
            backward: computes gradients of a scalar, with Lightning's handling of precision.
        """

    @abstractmethod
    def terms(self, function: Callable[[Student, Batch], Tensor], batches: Batches) -> Float[Tensor, " rows"]:
        """The count that ``function`` makes of each peer's batch; layers draw as in ``differentiate``."""

    @abstractmethod
    def predict(self, rows: Sequence[int], x: Views, stream: int | None = None) -> Predictions:
        """Predictions of the rows on the same samples ``x``, with a leading peer axis.

        In training mode normalisation uses the batch, and running statistics stay as they are.
        ``stream`` keys the random layers.
        """

    @abstractmethod
    def taught_losses(self, batches: Batches) -> Float[Tensor, " rows"]:
        """Losses of public samples against their targets, with gradients; buffers stay as they are."""

    @abstractmethod
    def predict_own(self, batches: Batches) -> Predictions:
        """Predictions of each peer of ``batches`` on its own samples, ``[peers, batch, ...]``.

        In training mode random layers draw what they draw in ``differentiate``; buffers stay as they are.
        """

    @abstractmethod
    def parameters_of(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Parameters that may leave a peer, stacked; to be read only, perhaps the students' own tensors."""

    @abstractmethod
    def gradients(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradients of parameters that may leave a peer, if a loss has reached them; to be read only."""

    @abstractmethod
    def load_gradients(self, rows: Sequence[int], gradients: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' gradients."""

    @abstractmethod
    def gradients_at(
        self, batches: Batches, at: Mapping[str, Float[Tensor, "1 ..."]]
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradient of each peer's private loss at weights ``at``, the same for all.

        Random layers draw what they draw in ``differentiate``; buffers stay as they are.
        """

    @abstractmethod
    def clip(self, rows: Sequence[int], limit: float) -> None:
        """Scale each row's gradient to an L2 norm of at most ``limit``."""

    @abstractmethod
    def advance(self, rows: Sequence[int]) -> None:
        """Optimizer and schedule step of each row; gradients are cleared."""

    @abstractmethod
    def finite(self, rows: Sequence[int]) -> list[int]:
        """The rows among ``rows`` whose gradients are all finite."""

    @abstractmethod
    def drop(self, rows: Sequence[int]) -> None:
        """Clear the gradients of rows that take no step after all."""

    @abstractmethod
    def weights(self, rows: Sequence[int], *, buffers: bool) -> dict[str, Float[Tensor, "rows ..."]]:
        """A copy of the weights that may leave a peer, and of its floating-point buffers if wanted."""

    @abstractmethod
    def norms(self, rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """L2 norm of each row's parameters, float64; not finite where a buffer that is saved is not."""

    @abstractmethod
    def load(self, rows: Sequence[int], weights: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' weights."""

    @abstractmethod
    def student(self, row: int) -> Student:
        """A real student on the row's current tensors (copy it to keep it)."""

    @abstractmethod
    def visit(self, rows: Sequence[int]) -> Iterator[Student]:
        """The rows' students in turn, perhaps all as one object that changes, so none may be kept."""

    @abstractmethod
    def students(self) -> list[Student]:
        """The modules that hold the rows' tensors; one for all rows when they are stacked."""

    def travelling(self, *, buffers: bool) -> list[str]:
        """Names of the saved tensors that may leave a peer, with the parameters that are frozen now.

        Raises:
            ConfigError: some of the students have frozen what others have not.
        """
        frozen = self._frozen()
        if (buffers, *frozen) not in self._travelling:
            self._travelling[buffers, *frozen] = travels(self.students()[0], buffers=buffers)
        return self._travelling[buffers, *frozen]

    def _frozen(self) -> tuple[bool, ...]:
        """Whether each parameter is frozen."""
        if not self._walked:
            self._walked = [list(student.parameters()) for student in self.students()]
        patterns = {tuple(not p.requires_grad for p in own) for own in self._walked}
        if len(patterns) > 1:
            raise ConfigError(
                f"the students of '{self.names[0]}' and others of its fleet have frozen different parameters:"
                " freeze the same in all, or make them two fleets"
            )
        return patterns.pop()

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the saved tensors that may leave a peer, with the parameters that are frozen now."""
        frozen = self._frozen()
        if frozen not in self._shapes:
            live = dict(self.tensors(0))
            self._shapes[frozen] = {name: live[name].shape for name in self.travelling(buffers=True)}
        return self._shapes[frozen]

    @abstractmethod
    def build_optimizers(self, scales: Sequence[float]) -> None:
        """Ask each student for its optimizer, and scale each row's learning rate."""

    @abstractmethod
    def follow(self, factor: float) -> None:
        """Multiply all learning rates by a factor from now on, instead of the last one."""

    @abstractmethod
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that hold the rows' hyper-parameters."""

    @abstractmethod
    def reset_optimizer(self, row: int) -> None:
        """Forget the row's optimizer state; its schedule goes on."""

    @abstractmethod
    def optimizer_state(self, row: int) -> dict[str, Any]:
        """Optimizer and schedule state of a row by parameter name."""

    @abstractmethod
    def load_optimizer_state(self, row: int, state: dict[str, Any]) -> None:
        """Load a row's saved optimizer and schedule state, whichever kind of group saved it."""

    @abstractmethod
    def tensors(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor (no copy) of everything that a student of this kind saves."""


def objective(student: Student, batch: Batch) -> Float[Tensor, ""]:
    """The loss of labels, that of a target, or both by their weights.

    Labels and targets are combined here and in no student, so a student's private loss knows no target.

    Raises:
        ConfigError: there is a target, and the student can learn none.
    """
    if batch.target is None:
        return student.private_loss(batch)
    if not isinstance(student, Teachable):
        kind = type(student).__name__
        raise ConfigError(f"{kind} cannot learn from an oracle: derive it from Teachable, write taught_loss")
    labels, taught = student.losses(batch)
    if labels is None:
        return taught
    assert batch.keep is not None
    return batch.keep * labels + (1 - batch.keep) * taught


def stacked(predictions: Sequence[Predictions]) -> Predictions:
    """Predictions of one kind, one a peer, with a leading peer axis."""
    kind: Any = type(predictions[0])
    whole: Predictions = kind(*map(torch.stack, zip(*predictions, strict=True)))
    return whole


def joined(predictions: Sequence[Predictions]) -> Predictions:
    """Predictions of one kind, each of some peers, along the peer axis."""
    if len(predictions) == 1:
        return predictions[0]
    kind: Any = type(predictions[0])
    whole: Predictions = kind(*map(torch.cat, zip(*predictions, strict=True)))
    return whole


def travels(student: Student, *, buffers: bool) -> list[str]:
    """Names of the saved tensors that may leave a peer, one for each tensor.

    Floating point, not personal, and not a buffer unless ``buffers``; integer counters, frozen parameters and
    buffers of what is ``still`` never travel.
    """
    parameters: dict[Tensor, bool] = {p: p.requires_grad for p in student.parameters()}
    for module in student.modules():
        for still in module.still if isinstance(module, Student) else ():
            parameters.update(dict.fromkeys(module.get_submodule(still).buffers(), False))
    names = dict[Tensor, str]()  # a tied tensor is saved under several names, and sent under the first
    for name, tensor in student.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and parameters.get(tensor, buffers):
            names.setdefault(tensor, name)
        if name in student.personal:
            names[tensor] = name
    return [name for name in names.values() if name not in student.personal]

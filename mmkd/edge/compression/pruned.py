"""Structured pruning: whole channels go, so that files and products become smaller by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmkd.bounds import BelowOne, bounded
from mmkd.edge.compression.base import Healing, Step, is_head, parameters, said
from mmkd.edge.compression.gradual import stages
from mmkd.students.base import Student
from mmkd.types import ConfigError

FINE = 100
"""In how many parts channels go, until as many parameters have gone as are to go."""
MOST = 0.95
"""Share of a layer's channels that may go, so that none becomes empty."""
LEAST = 2
"""Channels that stay in each group of a normalisation: one alone, normalised, says nothing of its size."""


@bounded
class Pruned(Step):
    """Removes the channels that matter least, of all layers together, until a share of parameters has gone.

    Layers that read or normalise a channel lose it, too; it matters by the norm of its weights in all of
    them, in relation to the others of the layer (torch-pruning, Fang et al. 2023). Gradients would say
    more of what matters to the private samples, and so make a student forget what it has learned of others.
    A group of channels that are normalised together keeps two of them.

    Args:
        share: of the parameters, at least, that go.
    """

    def __init__(self, share: BelowOne) -> None:
        self.share = share

    def __call__(self, healing: Healing, steps: int) -> None:
        """Prune a little, learn, and prune again."""
        student = healing.student
        if any(not p.requires_grad for p in student.parameters()):
            raise ConfigError(
                f"a {type(student).__name__} of which a part is frozen cannot be pruned, for its parts would"
                " no longer fit: train all of it, or leave prune out"
            )
        whole, pruner = parameters(student), _pruner(student, healing.example)
        for share, after in stages(self.share, steps):
            self._prune(pruner, student, (1 - share) * whole)
            healing.learn(after)

    def _prune(self, pruner: Any, student: Student, wanted: float) -> None:
        while parameters(student) > wanted:
            if pruner.current_step == FINE:
                raise ConfigError(
                    f"prune:{self.share:g} cannot be reached: of {type(student).__name__} there are still"
                    f" {parameters(student):,} parameters where all channels have gone that may go; give less"
                )
            norms = [norm for norm in student.modules() if isinstance(norm, nn.GroupNorm)]
            pruner.ignored_layers += [m for m in norms if m.num_channels <= LEAST * m.num_groups]
            with torch.enable_grad():
                pruner.step()


def _pruner(student: Student, example: Any) -> Any:
    """What knows which layers lose a channel together."""
    try:
        import torch_pruning as tp
    except ImportError as error:
        raise ConfigError(
            f"pruning needs a package that is missing ({error}): install mmkd[compression]"
        ) from error

    def forward(model: Student, given: dict[str, Any]) -> list[Tensor]:
        return said(model, given["x"])

    heads = [module for name, module in student.named_modules() if is_head(name)]
    try:
        return tp.pruner.BasePruner(
            student,
            {"x": example},  # or several views would be taken for arguments
            importance=tp.importance.GroupMagnitudeImportance(),
            global_pruning=True,
            pruning_ratio=1.0,
            max_pruning_ratio=MOST,
            iterative_steps=FINE,
            ignored_layers=heads,
            forward_fn=forward,
        )
    except Exception as error:  # whatever it meets in somebody's network
        raise ConfigError(
            f"{type(student).__name__} cannot be pruned: {' '.join(str(error).split())[:200]}"
        ) from error

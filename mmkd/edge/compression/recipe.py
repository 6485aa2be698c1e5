"""Recipes of compression: which steps in which order, who teaches meanwhile, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils._pytree import tree_map

from mmkd.bounds import Positive, Whole, bounded
from mmkd.edge.compression.base import Healing, Step, said
from mmkd.edge.compression.factored import LowRank
from mmkd.edge.compression.healing import PrivateHealing
from mmkd.edge.compression.lessons import Lesson, from_answers, from_itself, from_neighbours
from mmkd.edge.compression.pruned import Pruned
from mmkd.edge.compression.quantised import Aware, Quantised
from mmkd.edge.compression.sparse import Sparse
from mmkd.edge.graph import Graph
from mmkd.edge.trained import Trained
from mmkd.names import near
from mmkd.students.base import Student
from mmkd.types import ConfigError, PeerName


class Heal(Step):
    """Nothing but learning: before what compresses, behind it, or in between."""

    def __call__(self, healing: Healing, steps: int) -> None:
        """Learn."""
        healing.learn(steps)


SHARES: dict[str, Callable[[float], Step]] = {"prune": Pruned, "sparse": Sparse, "lowrank": LowRank}
"""Words that say how much goes, such as ``prune:0.7``."""
WORDS: dict[str, Callable[[], Step]] = {"heal": Heal, "int8": Quantised, "int8-aware": Aware}
"""Words that stand alone."""
TEACHERS = ("none", "self", "neighbours")
"""Who teaches while a student heals; else it is the file of what it was answered."""


@bounded
class Recipe:
    """How a student is compressed.

    Each step that compresses lets the student learn for its part of ``heal``, unless ``heal`` is among the
    steps: then all of it happens there. If nothing else heals, it does so first.

    Args:
        steps: words in the order in which they happen: ``prune:0.7``, ``sparse:0.7`` and ``lowrank:0.7`` take
            away so large a share of the parameters; ``int8`` has the file written in 8 bits, and
            ``int8-aware`` lets the student learn in these; ``heal`` lets it learn there. Without any, it
            is as it was.
        distil: who teaches meanwhile: nobody (``none``), the student's own whole ``self``, all ``neighbours``
            of the run, or the path of a file of what others have answered (``Cascade.save``).
        heal: local steps in all.
        rate: factor of the learning rate of the student's own optimizer.

    Raises:
        ConfigError: a step is unknown or has no meaning where it stands, or lessons have no local steps.
    """

    def __init__(
        self, steps: Sequence[str] = (), *, distil: str = "none", heal: Whole = 0, rate: Positive = 1.0
    ) -> None:
        self.words, self.distil, self.heal, self.rate = list(steps), distil, heal, rate
        self.steps = [_step(word) for word in steps]
        kinds = [type(step) for step in self.steps]
        if Quantised in kinds[:-1]:
            raise ConfigError(
                "int8 is the last step, for it is the file that has 8 bits; int8-aware may stand before"
                " others"
            )
        if {Quantised, Aware} <= {*kinds}:
            raise ConfigError("int8-aware writes a file in 8 bits, too: leave int8 out")
        if Sparse in kinds and LowRank in kinds[kinds.index(Sparse) :]:
            raise ConfigError("lowrank fills the zeros that sparse has made: put lowrank before sparse")
        if Heal in kinds and not heal:
            raise ConfigError("'heal' is among the steps, and heal is 0: say how many local steps that are")
        if distil != "none" and not heal:
            raise ConfigError(
                f"distil is '{distil}', and heal is 0: give local steps in which that is learned"
            )

    @property
    def format(self) -> str:
        """The format of the file that a device gets."""
        return "int8" if any(isinstance(step, Quantised | Aware) for step in self.steps) else "onnx"

    def parts(self) -> list[tuple[Step, int]]:
        """The steps, each with its part of the local steps; the last of those that heal takes the rest."""
        steps = list(self.steps)
        healers: list[Step] = [s for s in steps if isinstance(s, Heal)] or [s for s in steps if s.heals]
        if self.heal and not healers:
            healers = [Heal()]
            steps = [*healers, *steps]
        each = self.heal // max(1, len(healers))
        last = self.heal - each * (len(healers) - 1)
        return [(s, 0 if s not in healers else last if s is healers[-1] else each) for s in steps]


def compressed(run: Trained, peer: PeerName, recipe: Recipe) -> Student:
    """The student of a peer, compressed; in single precision and in evaluation, as the run has it.

    Raises:
        ConfigError: there is no such peer, the recipe has no meaning for its student, or what a step has left
            does not say as much as before.
    """
    student = run.student(peer)
    healing = PrivateHealing(
        student, run.data, peer, _lesson(run, peer, recipe, student), steps=recipe.heal, rate=recipe.rate
    )
    Graph(student).arguments(healing.example)  # samples of unequal length have no file either
    one = tree_map(lambda t: t[:1], healing.example)
    wanted = [[t.shape for t in said(student, x)] for x in (healing.example, one)]
    for word, (step, steps) in zip(_named(recipe), recipe.parts(), strict=True):
        step(healing, steps)
        try:
            found = [[t.shape for t in said(student.eval(), x)] for x in (healing.example, one)]
        except Exception as error:  # whatever somebody's network meets whose layers have other sizes now
            reason = " ".join(str(error).split())[:150]
            raise ConfigError(
                f"{type(student).__name__} does not run any more behind {word}: {reason}"
            ) from error
        if found != wanted:
            raise ConfigError(f"{type(student).__name__} says something of another shape behind {word}")
    return student.eval()


def _named(recipe: Recipe) -> list[str]:
    """Words of the steps that happen."""
    return recipe.words if len(recipe.parts()) == len(recipe.words) else ["heal", *recipe.words]


def _lesson(run: Trained, peer: PeerName, recipe: Recipe, student: Student) -> Lesson | None:
    if recipe.distil == "none":
        return None
    if recipe.distil == "self":
        return from_itself(run.student(peer), run.data, peer)
    if recipe.distil == "neighbours":
        return from_neighbours({name: run.student(name) for name in run.data.peers}, run.data, peer)
    example = run.data.reader(peer, "train").batch(torch.arange(1), 0).x
    return from_answers(Path(recipe.distil), student, run.data, peer, example)


def _step(word: str) -> Step:
    name, _, share = word.partition(":")
    if name in SHARES and share:
        try:
            number = float(share)
        except ValueError as error:
            raise ConfigError(f"'{word}' says no share: write such as {name}:0.7") from error
        return SHARES[name](number)
    if name in WORDS and not share:
        return WORDS[name]()
    if name in SHARES:
        raise ConfigError(f"'{word}' says no share: write such as {name}:0.7")
    known = [*SHARES, *WORDS]
    raise ConfigError(f"there is no step '{word}'{near(name, known)}; there are {', '.join(known)}")

"""Weights and gradients of the peers of a cohort along one axis, whatever groups they train in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.cohort.groups.base import Group
from mmkd.cohort.parts import parts_of
from mmkd.data.blocks import Reading, side_by_side
from mmkd.functional.slices import Shapes, greatest, leading, padded
from mmkd.functional.trees import scale_rows_
from mmkd.students.labels import Labels
from mmkd.types import Batches, ConfigError, PeerName, Step


class PeerAxis:
    """Weights and gradients of any peers, stacked in the order in which they are named.

    Rows of several groups are joined here for those who read them, and divided among groups again for those
    who write them.

    Args:
        groups: the cohort's list of groups, in which one may be replaced by another of the same peers.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._places = {n: (i, row) for i, group in enumerate(groups) for row, n in enumerate(group.names)}
        self._split: tuple[list[PeerName], list[tuple[int, list[int], list[int]]]] = ([], [])

    @property
    def names(self) -> list[PeerName]:
        """All peers, group by group."""
        return list(self._places)

    def group_of(self, names: Sequence[PeerName]) -> tuple[int, Group]:
        """The one group of all these peers, with its number."""
        number = self._places[names[0]][0]
        return number, self._groups[number]

    def locate(self, name: PeerName) -> tuple[Group, int]:
        """Group and row of a peer.

        Raises:
            ConfigError: there is no such peer.
        """
        if name in self._places:
            number, row = self._places[name]
            return self._groups[number], row
        raise ConfigError(f"no peer '{name}'; there are {', '.join(self._places)}")

    def activate(self, step: Step) -> list[list[int]]:
        """Prepare the peers of a step for it; their rows, in ascending order, of every group."""
        rows: list[list[int]] = [[] for _ in self._groups]
        for batches in step.private:
            number, group = self.group_of(batches.peers)
            rows[number] += group.rows(batches.peers)
        for group, active in zip(self._groups, rows, strict=True):
            active.sort()
            if active:
                group.activate(active)
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Every peer's tensors (no copies) that a checkpoint keeps, as ``peers.<name>.<tensor>``."""
        return {
            f"peers.{name}.{n}": tensor.detach()
            for group in self._groups
            for row, name in enumerate(group.names)
            for n, tensor in group.tensors(row)
        }

    @torch.no_grad()
    def load_tensors(self, saved: Mapping[str, Tensor], *, strict: bool) -> tuple[list[str], list[str]]:
        """Load what ``tensors`` gave; returns names that are missing, and names that no peer has.

        Raises:
            ConfigError: there are such names, or other shapes, and ``strict`` is set.
        """
        live = self.tensors()
        odd = sorted(set(live) ^ set(saved))
        odd += [n for n in live if n in saved and live[n].shape != saved[n].shape]
        if odd and strict:
            raise ConfigError(f"the checkpoint does not fit this cohort: {odd[0]} (and {len(odd) - 1} more)")
        for n, tensor in live.items():
            if n not in odd:
                tensor.copy_(saved[n])
        return [n for n in odd if n in live], [n for n in odd if n not in live]

    def weights(
        self, names: Sequence[PeerName], *, buffers: bool, slices: bool = False
    ) -> dict[str, Float[Tensor, "peers ..."]]:
        """A copy of the weights that may leave the peers, stacked in the order of ``names``.

        Args:
            names: peers.
            buffers: whether floating-point buffers are included.
            slices: pad tensors with zeros to the greatest shape, instead of refusing others.

        Raises:
            ConfigError: the peers' students differ in shape.
        """
        if not slices:
            self.alike(names)
        pieces = self._pieces(names)
        parts = [group.weights(rows, buffers=buffers) for group, rows, _ in pieces]
        return self._joined(parts, _order(pieces))

    def alike(self, names: Sequence[PeerName]) -> None:
        """Refuse peers whose weights cannot be averaged.

        Raises:
            ConfigError: the peers' students differ in shape.
        """
        alike(names, [group.shapes for group, _, _ in self._pieces(names)])

    def load_weights(
        self, names: Sequence[PeerName], weights: Mapping[str, Float[Tensor, "peers ..."]]
    ) -> None:
        """Overwrite the peers' weights with rows in the order of ``names``; each takes its leading slice."""
        pieces = self._pieces(names)
        for group, rows, places in pieces:
            own = {n: leading(t, group.shapes[n]) for n, t in weights.items()}
            group.load(rows, {n: t if len(pieces) == 1 else t[places] for n, t in own.items()})

    def parameters_of(self, names: Sequence[PeerName]) -> dict[str, Float[Tensor, "peers ..."]]:
        """Parameters that may leave the peers, stacked; to be read only, perhaps the students' own."""
        pieces = self._pieces(names)
        return self._joined([group.parameters_of(rows) for group, rows, _ in pieces], _order(pieces))

    def gradients(self, names: Sequence[PeerName]) -> dict[str, Float[Tensor, "peers ..."]]:
        """Gradients of the peers' parameters that a loss has reached, stacked; to be read only."""
        pieces = self._pieces(names)
        parts = [group.gradients(rows) for group, rows, _ in pieces]
        common = [n for n in parts[0] if all(n in part for part in parts)]
        return self._joined([{n: part[n] for n in common} for part in parts], _order(pieces))

    def load_gradients(
        self, names: Sequence[PeerName], gradients: Mapping[str, Float[Tensor, "peers ..."]]
    ) -> None:
        """Overwrite the peers' gradients with rows in the order of ``names``."""
        pieces = self._pieces(names)
        for group, rows, places in pieces:
            group.load_gradients(
                rows, {n: t if len(pieces) == 1 else t[places] for n, t in gradients.items()}
            )

    def gradients_at(
        self,
        names: Sequence[PeerName],
        batches: Sequence[Batches],
        at: Mapping[str, Float[Tensor, "1 ..."]],
        parts: int = 1,
    ) -> dict[str, Float[Tensor, "peers ..."]]:
        """Gradients of the private losses on ``batches`` at weights ``at``.

        Rows are those of ``names``. ``batches`` may hold other peers beside them: peers that train together
        share a random stream, and each must draw what it draws in training. Each batch is cut into ``parts``,
        which are computed in turn, as in training.
        """
        order = {name: i for i, name in enumerate(names)}
        found, places = [], []
        for same in batches:
            rows = [i for i, peer in enumerate(same.peers) if peer in order]
            whole = self._gradients_at(same, at, parts)
            found.append(whole if len(rows) == len(same.peers) else {n: g[rows] for n, g in whole.items()})
            places += [order[same.peers[i]] for i in rows]
        return self._joined(found, places)

    def learns_from(self) -> dict[PeerName, Labels]:
        """Kind of the labels that each peer's student reads."""
        kinds = [group.students()[0].learns_from() for group in self._groups]
        return {n: kind for group, kind in zip(self._groups, kinds, strict=True) for n in group.names}

    def norms(self, names: Sequence[PeerName]) -> list[float]:
        """L2 norm of each peer's parameters; not finite where a weight, a square or a statistic is not."""
        pieces = self._pieces(names)
        order, found = _order(pieces), [n for g, rows, _ in pieces for n in g.norms(rows).tolist()]
        return [norm for _, norm in sorted(zip(order, found, strict=True))]

    def side_by_side(self, readings: Mapping[PeerName, Reading]) -> list[list[Batches]]:
        """Batches of peers step by step, stacked for peers of one group."""
        steps: list[list[Batches]] = []
        for group in self._groups:
            found = side_by_side({name: readings[name] for name in group.names if name in readings})
            steps += [[] for _ in range(len(found) - len(steps))]
            for step, batches in zip(steps, found, strict=False):
                step += batches
        return steps

    def reset_optimizers(self, names: Sequence[PeerName]) -> None:
        """Forget the peers' optimizer state; learning-rate schedules go on."""
        for group, rows, _ in self._pieces(names):
            for row in rows:
                group.reset_optimizer(row)

    def _gradients_at(self, batches: Batches, at: Mapping[str, Tensor], parts: int) -> dict[str, Tensor]:
        _, group = self.group_of(batches.peers)
        if parts == 1:
            return group.gradients_at(batches, at)
        total: dict[str, Tensor] = {}
        for part, share in parts_of(group, batches, parts):
            found = group.gradients_at(part, at)
            if isinstance(share, Tensor):
                scale_rows_(found, share)
                share = 1.0
            for name, g in found.items():
                total[name] = total[name].add_(g, alpha=share) if name in total else share * g
        return total

    def _pieces(self, names: Sequence[PeerName]) -> list[tuple[Group, list[int], list[int]]]:
        """Groups, their rows among ``names`` and positions of these in ``names``; caches the last call."""
        if self._split[0] != names:
            pieces: dict[int, tuple[list[int], list[int]]] = {}
            for i, name in enumerate(names):
                number, row = self._places[name]
                rows, places = pieces.setdefault(number, ([], []))
                rows.append(row)
                places.append(i)
            self._split = (list(names), [(number, *pieces[number]) for number in sorted(pieces)])
        groups = self._groups
        return [(groups[number], rows, places) for number, rows, places in self._split[1]]

    @staticmethod
    def _joined(parts: list[dict[str, Tensor]], order: list[int]) -> dict[str, Tensor]:
        """Rows of several parts in the order given by ``order``, smaller ones padded with zeros."""
        if len(parts) == 1:
            return parts[0]
        back = sorted(range(len(order)), key=order.__getitem__)
        joined = {}
        for n in parts[0]:
            leaves = [part[n] for part in parts]
            shape = greatest(leaf.shape[1:] for leaf in leaves)
            joined[n] = torch.cat([padded(leaf, shape) for leaf in leaves])[back]
        return joined


def alike(names: Sequence[PeerName], shapes: Sequence[Shapes]) -> None:
    """Refuse peers whose weights cannot be averaged.

    Args:
        names: peers.
        shapes: of all kinds of their students.

    Raises:
        ConfigError: the peers' students differ in shape.
    """
    if any(shape is not shapes[0] and shape != shapes[0] for shape in shapes):
        raise ConfigError(
            f"the students of {', '.join(names)} differ in shape and cannot be averaged; choose"
            " clusters of one architecture (aggregation.among)"
        )


def widest(shapes: Mapping[PeerName, Shapes]) -> list[PeerName]:
    """The peers whose students hold those of all others as leading slices.

    Raises:
        ConfigError: the students' tensors do not correspond, or nobody holds all.
    """
    first = next(iter(shapes))
    for name, own in shapes.items():
        odd = sorted(shapes[first].keys() ^ own.keys())
        odd = odd or [n for n, shape in own.items() if len(shape) != len(shapes[first][n])]
        if odd:
            raise ConfigError(
                f"the students of '{first}' and '{name}' are no slices of one another, for they differ in"
                f" '{odd[0]}'; choose clusters of one student class (aggregation.among)"
            )
    whole = {n: greatest(own[n] for own in shapes.values()) for n in shapes[first]}
    holders = [name for name, own in shapes.items() if own == whole]
    if not holders:
        raise ConfigError(
            f"of {', '.join(shapes)} no student is the widest in everything; slices need one that is"
        )
    return holders


def _order(pieces: list[tuple[Group, list[int], list[int]]]) -> list[int]:
    """Positions of the rows of all pieces among the names that were asked for."""
    return [i for _, _, places in pieces for i in places]

"""What listeners hold of what they were told: speakers leave it out, and listeners fill it in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.caching import KnowledgeCache, Seen
from mmkd.caching.eviction import kept
from mmkd.coordination.expected import WEIGHT
from mmkd.functional.alike import first_alike
from mmkd.functional.classification import softmax
from mmkd.transport import Stack
from mmkd.types import ConfigError

NEVER = -1
"""The tick of what was never said, or is no longer kept."""
MOST = 2**28
"""The most pairs of speakers and listeners of whom it is noted when they met."""


class Held:
    """What is held in this process, and what speakers of this process know that their listeners hold.

    Both follow from what was said, so nobody needs to ask: a listener holds a statement if it heard the
    speaker in the exchange in which it was said last.

    Args:
        cache: the settings.
        decode: statements by name, from the tensors of a stack.
        run: names the run.
    """

    def __init__(
        self, cache: KnowledgeCache, decode: Callable[[Stack], Mapping[str, Tensor]], run: str
    ) -> None:
        self.cache, self._decode = cache, decode
        self._store = cache.opened(run)
        self._speakers: dict[str, int] = {}  # rows of what follows
        self._listeners: dict[str, int] = {}
        self._said, self._used, self._uses = (torch.full((0, 0), NEVER, dtype=torch.int32) for _ in range(3))
        self._drift, self._marks = torch.zeros(0, 0), torch.full((0, 0), NEVER)
        self._heard: dict[int, Tensor] = {}  # by tick, not yet stale: [speakers, listeners]
        self._noted = torch.full((0,), NEVER, dtype=torch.int32)  # when what a speaker said was noted last
        self.counts = {"said": 0, "held": 0, "lost": 0, "gone": 0, "age": 0, "saved": 0}
        """Statements that were said, read from what was held, lost by the store, let go; ticks of age of what
        was read; bytes that were not sent."""

    # --- speaking ----------------------------------------------------------------------------------

    def narrowed(self, stack: Stack, keys: Sequence[str], ids: Int[Tensor, " samples"], tick: int) -> Stack:
        """A stack without what all who will hear it hold.

        Args:
            stack: what is to be said, with its receivers.
            keys: whose statements the rows are.
            ids: of the samples.
            tick: of the exchange.
        """
        rows, ids = self._rows(keys, ids), ids.cpu()
        wants = _spoken(stack, len(ids))
        held, found = self._get(keys, rows, ids, stack, self._fresh(rows, ids, tick))
        change = self._change(stack, held, found)
        hear = self._hearing(stack)
        lacking = self._lacking(rows, ids, hear, tick)
        changed = wants & found & (change > self.cache.change)
        if self.cache.most < 1:
            changed = kept(change, changed, int(self.cache.most * len(ids)))
        says = (wants & (~found | lacking)) | changed
        stack = self._merged(stack, says)
        self._note(keys, rows, ids, stack.tensors, says, wants, tick, change, found)
        self._hear(rows, hear, tick)
        self.counts["saved"] += _saved(stack, wants, says)
        return stack._replace(spoken=None if bool(says.all()) else says.to(_device(stack)))

    def _lacking(self, rows: Tensor, ids: Tensor, hear: Tensor, tick: int) -> Bool[Tensor, "rows samples"]:
        """What some of those who ``hear`` now did not hear as it was said."""
        self._heard = {t: heard for t, heard in self._heard.items() if tick - t <= self.cache.stale}
        at = self._said[rows[:, None], ids]
        lacking, known = torch.ones(at.shape, dtype=torch.bool), dict[int, Tensor]()
        for then in at.unique().tolist():
            if (heard := self._heard.get(then)) is None:  # stale, or never said
                continue
            if id(heard) not in known:  # exchanges of the same listeners share one
                known[id(heard)] = (hear & ~_grown(heard, self._pairs(), 0)[rows]).any(1)
            lacking &= (at != then) | known[id(heard)][:, None]
        return lacking

    def _hear(self, rows: Tensor, hear: Bool[Tensor, "rows listeners"], tick: int) -> None:
        """Note who hears the speakers of some rows at this tick."""
        if tick not in self._heard:
            last = list(self._heard)[-2:]
            if len(last) == 2 and torch.equal(self._heard[last[0]], self._heard[last[1]]):
                self._heard[last[1]] = self._heard[last[0]]
            self._heard[tick] = torch.zeros(self._pairs(), dtype=torch.bool)
        self._heard[tick] = _grown(self._heard[tick], self._pairs(), 0)
        self._heard[tick][rows] = hear

    def _hearing(self, stack: Stack) -> Bool[Tensor, "rows listeners"]:
        """Who hears each row of a stack now; a speaker holds what it says itself.

        Raises:
            ConfigError: there are too many.
        """
        for receiver in stack.receivers:
            self._listeners.setdefault(receiver, len(self._listeners))
        speakers, listeners = self._pairs()
        if speakers * listeners > MOST:
            raise ConfigError(
                f"knowledge.cache notes who has heard whom, and {speakers:,} times {listeners:,} are too"
                " many: use a hub, or leave it out"
            )
        columns = torch.tensor([self._listeners[receiver] for receiver in stack.receivers], dtype=torch.long)
        hear = torch.zeros(len(stack.senders), listeners, dtype=torch.bool)
        if stack.edges is None:
            hear[:, columns] = True
        else:
            receiver, row = stack.edges.cpu()
            hear[row, columns[receiver]] = True
        for row, sender in enumerate(stack.senders):
            if sender in self._listeners:
                hear[row, self._listeners[sender]] = False
        return hear

    def _pairs(self) -> tuple[int, int]:
        return len(self._speakers), len(self._listeners)

    def _change(
        self, stack: Stack, held: Mapping[str, Tensor], found: Bool[Tensor, "rows samples"]
    ) -> Float[Tensor, "rows samples"]:
        """By how much each statement differs from what is held; of several of a sample the greatest."""
        if not bool(found.any()):
            return torch.ones(found.shape)
        if self.cache.change == 0 and self.cache.most == 1:  # to the last bit, as listeners will read it
            differs = [
                (t != held[name]).flatten(1).unflatten(1, (found.shape[1], -1)).any(2)
                for name, t in stack.tensors.items()
            ]
            return torch.stack(differs).any(0).float().cpu()
        new, old = self._decode(stack), self._decode(stack._replace(tensors=held))
        changes = [_difference(old[name], new[name], logits=name in stack.logits) for name in new]
        changes += [(t - held[n]).abs().float() for n, t in stack.tensors.items() if n.endswith(WEIGHT)]
        return torch.stack(changes).amax(0).cpu()

    def _merged(self, stack: Stack, says: Bool[Tensor, "rows samples"]) -> Stack:
        """A stack that says the same of samples of which nearly the same is to be said."""
        if self.cache.near == 0 or not bool(says.any()):
            return stack
        weights = [t[..., None] for name, t in stack.tensors.items() if name.endswith(WEIGHT)]
        said = [
            (softmax(t), False) if name in stack.logits else (t, True)
            for name, t in self._decode(stack).items()
        ]
        alike = first_alike([*said, *((t, False) for t in weights)], says.to(_device(stack)), self.cache.near)
        if bool((alike == torch.arange(alike.shape[1], device=alike.device)).all()):
            return stack
        rows = torch.arange(len(alike), device=alike.device)[:, None]
        return stack._replace(tensors={n: t[rows, alike] for n, t in stack.tensors.items()}, alike=alike)

    # --- listening ---------------------------------------------------------------------------------

    def filled(self, stack: Stack, keys: Sequence[str], ids: Int[Tensor, " samples"], tick: int) -> Stack:
        """A stack that has arrived, with what was left out of it.

        Args:
            stack: of speakers here, which was narrowed in this exchange, or elsewhere.
            keys: whose statements the rows are.
            ids: of the samples.
            tick: of the exchange.
        """
        rows, ids = self._rows(keys, ids), ids.cpu()
        said, at = _spoken(stack, len(ids)), self._said[rows[:, None], ids]
        held, found = self._get(keys, rows, ids, stack, self._fresh(rows, ids, tick))
        if bool((self._noted[rows] < tick).any()):  # speakers of another process
            change = self._change(stack, held, found & said)
            self._note(keys, rows, ids, stack.tensors, said, said | found, tick, change, found)
        self._let_go(keys, rows, tick)  # once all that is held has been read, here as elsewhere
        found = found & ~said
        self.counts["said"] += int(said.sum())
        self.counts["held"] += int(found.sum())
        self.counts["age"] += int((tick - at)[found].sum())
        given = found.to(_device(stack))
        tensors = {
            name: torch.where(given.view(*given.shape, *[1] * (t.dim() - 2)), held[name], t)
            for name, t in stack.tensors.items()
        }
        spoken = said | found
        spoken_of = None if bool(spoken.all()) else spoken.to(given.device)
        return stack._replace(tensors=tensors, spoken=spoken_of, alike=None)  # what is held shares no rows

    # --- what both ends note -----------------------------------------------------------------------

    def _fresh(self, rows: Tensor, ids: Tensor, tick: int) -> Bool[Tensor, "rows samples"]:
        """Which statements are held and have not become stale."""
        at = self._said[rows[:, None], ids]
        return (at >= 0) & (tick - at <= self.cache.stale)

    def _get(
        self, keys: Sequence[str], rows: Tensor, ids: Tensor, stack: Stack, fresh: Tensor
    ) -> tuple[dict[str, Tensor], Bool[Tensor, "rows samples"]]:
        """What is held and fresh, in the form of a stack's tensors, and which statements that are."""
        marks = self._marks[rows[:, None], ids].masked_fill(~fresh, NEVER)
        held, found = self._store.get(keys, ids, stack.tensors, marks)
        self.counts["lost"] += int((fresh & ~found).sum())
        return held, found

    def _note(
        self,
        keys: Sequence[str],
        rows: Tensor,
        ids: Tensor,
        tensors: Mapping[str, Tensor],
        says: Bool[Tensor, "rows samples"],
        used: Bool[Tensor, "rows samples"],
        tick: int,
        change: Float[Tensor, "rows samples"],
        known: Bool[Tensor, "rows samples"],
    ) -> None:
        """Keep what was said; ``change`` is known of some statements."""
        where, before = (rows[:, None], ids), self._said[rows[:, None], ids]
        marks = self._store.put(keys, ids, tensors, says) if bool(says.any()) else self._marks[where]
        drift = change / (tick - before).clamp(min=1)
        self._drift[where] = torch.where(says & known, drift, self._drift[where])
        self._said[where] = torch.where(says, NEVER if marks is None else tick, before)
        if marks is not None:
            self._marks[where] = torch.where(says, marks, self._marks[where])
        self._used[where] = torch.where(used, tick, self._used[where])
        self._uses[where] = torch.where(says & (before < 0), 0, self._uses[where]) + used.int()
        self._noted[rows] = tick

    def _let_go(self, keys: Sequence[str], rows: Tensor, tick: int) -> None:
        """Forget what is too much."""
        if self.cache.entries is None:
            return
        held = self._said[rows] >= 0
        if int(held.sum(1).max()) <= self.cache.entries:
            return
        seen = Seen(self._said[rows], self._used[rows], self._uses[rows], self._drift[rows])
        gone = held & ~kept(self.cache.eviction.worth(seen, tick), held, self.cache.entries)
        self._said[rows] = self._said[rows].masked_fill(gone, NEVER)
        self._store.drop(keys, gone)
        self.counts["gone"] += int(gone.sum())

    def _rows(self, keys: Sequence[str], ids: Tensor) -> Int[Tensor, " rows"]:
        """Rows of speakers; there is room for them and for the samples."""
        for key in keys:
            self._speakers.setdefault(key, len(self._speakers))
        size = int(ids.max()) + 1 if len(ids) else 0
        shape = len(self._speakers), max(size, self._said.shape[1])
        if shape != tuple(self._said.shape):
            self._said, self._used = (_grown(t, shape, NEVER) for t in (self._said, self._used))
            self._uses, self._drift = (_grown(t, shape, 0) for t in (self._uses, self._drift))
            self._marks = _grown(self._marks, shape, NEVER)
            self._noted = _grown(self._noted, shape[:1], NEVER)
        return torch.tensor([self._speakers[key] for key in keys], dtype=torch.long)

    # --- what is told of it ------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Share of statements that were held, their mean age in ticks, and bytes that were not sent."""
        counts = self.counts
        return {
            "cache/hit_rate": counts["held"] / max(1, counts["held"] + counts["said"]),
            "cache/age": counts["age"] / max(1, counts["held"]),
            "cache/saved_bytes": float(counts["saved"]),
            "cache/lost": float(counts["lost"]),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that is noted, and what the store does not keep by itself."""
        tensors = {name: getattr(self, name).clone() for name in NOTED}
        return {
            **tensors,
            "speakers": list(self._speakers),
            "listeners": list(self._listeners),
            "heard": {tick: heard.clone() for tick, heard in self._heard.items()},
            "counts": dict(self.counts),
            "store": self._store.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a saved run."""
        for name in NOTED:
            setattr(self, name, state[name].clone())
        self._speakers = {name: i for i, name in enumerate(state["speakers"])}
        self._listeners = {name: i for i, name in enumerate(state["listeners"])}
        self._heard, self.counts = dict(state["heard"]), dict(state["counts"])
        self._store.load_state_dict(state["store"])


NOTED = ("_said", "_marks", "_used", "_uses", "_drift", "_noted")
"""Tensors of what is noted."""


def run_name(*settings: object) -> str:
    """A short name of a run with these settings: another has another."""
    return blake2b(json.dumps(settings, default=str).encode(), digest_size=16).hexdigest()


def _spoken(stack: Stack, samples: int) -> Bool[Tensor, "rows samples"]:
    if stack.spoken is not None:
        return stack.spoken.cpu()
    return torch.ones(len(stack.senders), samples, dtype=torch.bool)


def _difference(
    old: Float[Tensor, "rows samples width"], new: Float[Tensor, "rows samples width"], *, logits: bool
) -> Float[Tensor, "rows samples"]:
    """The greatest difference: of class probabilities, or in units of the greatest number of a row."""
    if logits:
        return (softmax(old) - softmax(new)).abs().amax(-1)
    return (old - new).abs().amax(-1) / old.abs().amax(-1).clamp(min=torch.finfo(old.dtype).tiny)


def _saved(stack: Stack, wants: Bool[Tensor, "rows samples"], says: Bool[Tensor, "rows samples"]) -> int:
    """Bytes that nobody sends; bits and numbers that say which row is about which samples are counted."""
    kept, copies = [], stack.copies()
    for spoken, alike in ((wants, None), (says, stack.alike)):
        sizes = stack._replace(spoken=spoken.to(_device(stack)), alike=alike).sizes("", 0)
        kept.append(sum(nbytes * many for (nbytes, _), many in zip(sizes, copies, strict=True)))
    return kept[0] - kept[1]


def _device(stack: Stack) -> torch.device:
    return next(iter(stack.tensors.values())).device


def _grown(tensor: Tensor, shape: tuple[int, ...], fill: int) -> Tensor:
    """The tensor with room for more, which holds ``fill``."""
    if tuple(tensor.shape) == shape:
        return tensor
    grown = tensor.new_full(shape, fill)
    grown[tuple(map(slice, tensor.shape))] = tensor
    return grown

"""Loaders of blocks, of one peer's batches and of evaluation batches; they resume where a run was saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from torch.utils.data import DataLoader

from mmkd.data.augmenting import augmented_alone
from mmkd.data.base import PeerData
from mmkd.data.blocks import Blocks, PrivateBatches
from mmkd.data.reader import Reader, pieces
from mmkd.functional.random import key
from mmkd.schedule import Timetable
from mmkd.types import Batch, Block, ConfigError, Evaluation, PeerName

PIECE = 512
"""Samples in a batch of an evaluation."""
ENDED = "ended"
"""Key of a saved loader whose last block is taken, but not all that follows a block has happened."""


class TrainLoader:
    """The blocks of one Lightning epoch after another; its position is saved with the run.

    Without that a Lightning resume in the middle of an epoch would silently start the epoch again.
    After a checkpoint between two epochs Lightning does not restore loaders at all, so ``start``, the
    number of blocks that the trainer has seen, says where a new loader begins.
    """

    def __init__(
        self,
        data: PeerData,
        timetable: Timetable,
        fleets: Sequence[Sequence[PeerName]],
        public: bool,
        start: int,
    ) -> None:
        self._data, self._timetable, self._fleets, self._public = data, timetable, fleets, public
        self._blocks: Blocks | None = None
        self._next, self._ended = start, False

    def __len__(self) -> int:
        return self._timetable.rounds_per_epoch * self._timetable.blocks_per_round

    def __iter__(self) -> Iterator[Block]:
        # A generator: the position is read at the first block, after Lightning has restored it.
        if self._blocks is None:
            self._blocks = Blocks(self._data, self._timetable, self._fleets, self._public)
        if self._ended:
            self._ended = False
            yield Block([])
        numbers = range(self._next, self._next + len(self))  # Lightning ends the epoch, perhaps sooner
        blocks: Iterator[Block]
        if self._data.num_workers:
            blocks = iter(
                DataLoader(
                    self._blocks,
                    batch_size=None,
                    sampler=numbers,
                    num_workers=self._data.num_workers,
                )
            )
        else:
            blocks = (self._blocks[i] for i in numbers)
        for block in plainly(blocks):
            self._next += 1
            yield block

    def state_dict(self) -> dict[str, int]:
        """How many blocks were handed out since training began."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the position of a saved loader, after an empty block if its last one has ended."""
        self._next, self._ended = state["next"], bool(state.get(ENDED))


def plainly(blocks: Iterator[Block]) -> Iterator[Block]:
    """The same; an error comes from a worker with a traceback in its message, of which the line is kept."""
    try:
        yield from blocks
    except ConfigError as error:
        raise ConfigError(str(error).strip().rpartition("ConfigError: ")[2]) from error


class LoneLoader:
    """The batches of one peer, epoch after epoch, for a student that trains alone.

    Training batches carry the same samples and random keys as in a cohort. Its position is saved too.
    """

    def __init__(self, data: PeerData, peer: PeerName, split: str, start: int = 0) -> None:
        self._data, self._peer, self._split = data, peer, split
        self._batches = PrivateBatches(data, peer) if split == "train" else None
        self._next = start

    def __len__(self) -> int:
        if self._split == "train":
            return self._data.steps_per_epoch(self._peer)
        return len(pieces(len(self._data.reader(self._peer, self._split)), PIECE))

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is None:
            reader = self._data.reader(self._peer, self._split)
            for i, places in enumerate(pieces(len(reader), PIECE)):
                yield reader.batch(places, key(self._data.seed, self._peer, self._split, i))
            return
        for step in range(self._next, (self._next // len(self) + 1) * len(self)):
            self._next += 1
            batch, data = self._batches[step], self._data
            yield augmented_alone(batch, data.peers[self._peer], data.augment)

    def state_dict(self) -> dict[str, int]:
        """How many batches were handed out since training began."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the position of a saved loader."""
        self._next = state["next"]


class EvaluationLoader:
    """Labelled samples in batches, read once for all peers that are evaluated on them.

    Data sets take turns: a batch of each, then the next of each, so that a few batches show all peers.
    """

    def __init__(self, readers: list[tuple[Reader, list[PeerName]]], batch_size: int) -> None:
        self._readers, self._batch_size = readers, batch_size

    def __len__(self) -> int:
        return sum(len(pieces(len(reader), self._batch_size)) for reader, _ in self._readers)

    def __iter__(self) -> Iterator[Evaluation]:
        parts = [pieces(len(reader), self._batch_size) for reader, _ in self._readers]
        for chunks in zip_longest(*parts):
            for (reader, peers), places in zip(self._readers, chunks, strict=True):
                if places is not None:
                    batch = reader.batch(places, 0)
                    assert batch.y is not None
                    yield Evaluation(peers, batch.x, batch.y, batch.ids)

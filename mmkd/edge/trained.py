"""A run that was trained: its students and its data, from its folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from torch import nn

from mmkd.data.base import PeerData
from mmkd.errors import ConfigError
from mmkd.names import near
from mmkd.students.base import Classifier, Student
from mmkd.types import PeerName


class Trained(NamedTuple):
    """What a run left."""

    name: str
    checkpoint: str
    cohort: Any
    data: PeerData
    best: Mapping[PeerName, int] | None = None  # head of each peer, by validation samples; 0 is the main one
    compressed: Mapping[PeerName, Student] = MappingProxyType({})  # students that stand for the run's own

    def student(self, peer: PeerName) -> Student:
        """A copy of the student of a peer, on the CPU, in single precision and in evaluation.

        Its main head is the one by which the run has judged it.

        Raises:
            ConfigError: there is no such peer, or it was judged by all of its heads together.
        """
        peers = self.cohort.roster[0]
        if peer not in peers:
            raise ConfigError(f"there is no peer '{peer}'{near(peer, peers)}")
        if peer in self.compressed:
            return copy.deepcopy(self.compressed[peer]).eval().float()
        student: Student = copy.deepcopy(self.cohort.student(peer)).cpu().eval().float()
        if isinstance(student, Classifier) and (number := self._head(peer, len(student.aux))):
            student.main = cast(nn.Linear, student.aux[number - 1])
        return student

    def _head(self, peer: PeerName, auxiliary: int) -> int:
        """The head of a student that is its answer; 0 is the main one."""
        if self.cohort.head == "ensemble" and auxiliary:
            raise ConfigError(
                f"'{peer}' was judged by the mean of its heads, and a device runs one: choose it with"
                " --model.head=best, last or main"
            )
        return {"last": auxiliary, "best": (self.best or {}).get(peer, 0)}.get(self.cohort.head, 0)


def trained(run: Path, checkpoint: Path | None, rest: Sequence[str]) -> Trained:
    """Read a run.

    Args:
        run: its folder.
        checkpoint: the newest of the run, if None.
        rest: options as of ``mmkd fit``, over the run's own.

    Raises:
        ConfigError: the folder is none of a run, or it has no checkpoint.
    """
    config = run / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"{run} is no folder of a run: there is no config.yaml in it")
    path = checkpoint or _newest(run)
    from mmkd.cli import MmkdCLI
    from mmkd.cohort.checkpoints import WholeCheckpoints
    from mmkd.data.peers import SPLITS

    cli: Any = MmkdCLI([f"--config={config}", *rest], run=False, logger=False)
    saved = WholeCheckpoints().load_checkpoint(path, map_location="cpu")
    cli.model.load_state_dict(saved["state_dict"])
    data = cli.datamodule
    data.assign(*cli.model.roster)
    data.prepare_data()
    data.setup("test")
    data.labels = {split: cli.model.labels(split) for split in SPLITS}
    return Trained(run.name, path.name, cli.model, data, saved["mmkd"]["best"])


def _newest(run: Path) -> Path:
    found = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"{run} has no checkpoints: name one with --ckpt_path")
    return found[-1]

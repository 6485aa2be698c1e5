"""A run that was trained: its students and its data, from its folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mmkd.data.base import PeerData
from mmkd.errors import ConfigError
from mmkd.names import near
from mmkd.students.base import Student
from mmkd.types import PeerName


class Trained(NamedTuple):
    """What a run left."""

    name: str
    checkpoint: str
    cohort: Any
    data: PeerData
    compressed: Mapping[PeerName, Student] = MappingProxyType({})  # students that stand for the run's own

    def student(self, peer: PeerName) -> Student:
        """A copy of the student of a peer, on the CPU, in single precision and in evaluation.

        Raises:
            ConfigError: there is no such peer.
        """
        peers = self.cohort.roster[0]
        if peer not in peers:
            raise ConfigError(f"there is no peer '{peer}'{near(peer, peers)}")
        own = self.compressed.get(peer) or self.cohort.student(peer)
        student: Student = copy.deepcopy(own).cpu().eval().float()
        return student


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
    return Trained(run.name, path.name, cli.model, data)


def _newest(run: Path) -> Path:
    found = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"{run} has no checkpoints: name one with --ckpt_path")
    return found[-1]

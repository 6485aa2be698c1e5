"""One process of a network: trains its peers of a configuration, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkd.types import ConfigError


class Place(NamedTuple):
    """Where a process is in its network."""

    study: str
    own: Sequence[str]  # peers that it holds
    listen: Sequence[str]  # endpoints on which others reach it
    hosts: Sequence[str]  # endpoints of others
    hub: bool  # whether hubs are in it
    deadline: float = 60.0  # seconds that an exchange waits for others
    late: str = "stop"  # or go_on without those who are silent, or wait for nobody (asynchronous)
    stale: int = 0  # rounds for which what somebody has said is heard again
    gather: float = 300.0  # seconds that it waits for all, before training
    keys: str | None = None  # folder of its certificate
    open: bool = False  # whether strangers may connect


def run(arguments: Sequence[str], place: Place, folder: Path) -> int:
    """Train and test the peers of this process; returns the exit status.

    It is saved after every round. Started again with the same folder, it goes on after the newest round that
    all processes have saved, or, where the others train without it, in a round of theirs that is to come.

    Args:
        arguments: configuration files and settings, as of ``mmkd fit``.
        place: of this process in its network.
        folder: what it writes to.

    Raises:
        ConfigError: a setting has no meaning, or the others do not fit.
    """
    from mmkd.callbacks.recorder import Recorder
    from mmkd.callbacks.round_checkpoints import RoundCheckpoints, path_of, saved
    from mmkd.callbacks.run_folder import begin_anew
    from mmkd.cli import MmkdCLI
    from mmkd.transport.zenoh import ZenohTransport

    checkpoints = folder / "checkpoints"
    cli: Any = MmkdCLI(
        [
            *arguments,
            f"--model.own={json.dumps([*place.own])}",
            f"--decentralized.transport={json.dumps(_transport(place))}",
            f"--recorder.folder={folder}",
        ],
        run=False,
        callbacks=[RoundCheckpoints(checkpoints)],
        default_root_dir=str(folder),
        enable_checkpointing=True,
    )
    if cli.config.recorder.folder != str(folder):
        raise ConfigError("mmkd peer writes into --folder; leave recorder.folder out")
    transport = next(c.method.transport for c in cli.trainer.callbacks if hasattr(c, "method"))
    assert isinstance(transport, ZenohTransport)
    awaited = [name for name in cli.model.roster[0] if name not in cli.model.names]
    after = transport.meet(cli.model.names, awaited, saved(checkpoints))
    if after is None:
        begin_anew(folder)
    elif transport.begins:
        print(f"mmkd: others train; this process comes in in round {transport.begins}", file=sys.stderr)
    else:
        print(f"mmkd: all go on after round {after}", file=sys.stderr)
    cli.trainer.fit(
        cli.model, datamodule=cli.datamodule, ckpt_path=None if after is None else path_of(checkpoints, after)
    )
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    recorder = next(c for c in cli.trainer.callbacks if isinstance(c, Recorder))
    print(recorder.summary(cli.trainer, cli.model), file=sys.stderr)
    return 0


def _transport(place: Place) -> dict[str, Any]:
    given = {
        "study": place.study,
        "listen": [*place.listen],
        "connect": [*place.hosts],
        "hosts": place.hub,
        "deadline": place.deadline,
        "late": place.late,
        "stale": place.stale,
        "gather": place.gather,
        "keys": place.keys,
        "open": place.open,
    }
    return {"class_path": "mmkd.transport.zenoh.ZenohTransport", "init_args": given}


def default_folder(study: str, own: Sequence[str]) -> Path:
    """Where a process writes that is not told where."""
    return Path("results") / study / own[0].replace("/", os.sep)

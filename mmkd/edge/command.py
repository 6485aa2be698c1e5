"""The command ``mmkd export``, which imports slow libraries late."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.errors import ConfigError
from mmkd.names import near

SAMPLES = 64
"""Samples on which files and student are compared."""


def run(argv: Sequence[str]) -> int:
    """Write the student of one peer of a run; returns the status."""
    parser = argparse.ArgumentParser(
        prog="mmkd export", description="A trained student as files that run without mmkd and without torch."
    )
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--peer", required=True, help="whose student is written")
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument("--out", type=Path, help="folder that is made; export/PEER in the run's, if left out")
    parser.add_argument(
        "--formats", nargs="+", default=["onnx"], help="of onnx, torch and executorch; onnx if left out"
    )
    parser.add_argument(
        "--ask",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="how many of its requests the device may be unsure of: sets its threshold by validation samples",
    )
    options, rest = parser.parse_known_args(argv)
    if not 0 <= options.ask <= 1:
        raise ConfigError(f"--ask is a share of requests, from 0 to 1, not {options.ask:g}")
    config = options.run / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"{options.run} is no folder of a run: there is no config.yaml in it")
    checkpoint = options.ckpt_path or _newest(options.run)
    from mmkd.cli import MmkdCLI
    from mmkd.cohort.checkpoints import WholeCheckpoints

    cli: Any = MmkdCLI([f"--config={config}", *rest], run=False, logger=False)
    cohort, data, peer = cli.model, cli.datamodule, options.peer
    peers = cohort.roster[0]
    if peer not in peers:
        raise ConfigError(f"there is no peer '{peer}'{near(peer, peers)}")
    saved = WholeCheckpoints().load_checkpoint(checkpoint, map_location="cpu")
    cohort.load_state_dict(saved["state_dict"])
    data.assign(*cohort.roster)
    data.prepare_data()
    data.setup("test")
    from mmkd.edge.exporting import export
    from mmkd.edge.validating import validated

    student = copy.deepcopy(cohort.student(peer)).eval().float()
    facts = validated(student, data, peer, options.ask)
    done = export(
        student,
        data.reader(peer, "test").batch(_first(data, peer), 0).x,
        options.out or options.run / "export" / peer.replace("/", "-"),
        formats=options.formats,
        temperature=facts.temperature,
        threshold=facts.threshold,
        classes=getattr(data, "classes", ()),
        tokenizer=data.tokenizer(),
        about={"peer": peer, "run": options.run.name, "checkpoint": checkpoint.name, **facts.said},
    )
    print((done.folder / "README.md").read_text(encoding="utf-8"))
    print(f"export: {done.folder}")
    return 0


def _newest(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        ConfigError: there is none.
    """
    found = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"{run} has no checkpoints: name one with --ckpt_path")
    return found[-1]


def _first(data: Any, peer: str) -> Any:
    import torch

    size = len(data.reader(peer, "test"))
    if size < 2:
        raise ConfigError(f"peer '{peer}' has {size} test samples, and an export compares at least two")
    return torch.arange(min(size, SAMPLES))

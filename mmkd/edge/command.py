"""The commands ``mmkd export``, ``mmkd offload`` and ``mmkd serve``, which import slow libraries late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.errors import ConfigError
from mmkd.names import no_file

SAMPLES = 256
"""Samples on which files and student are compared, and as many by which 8 bits are calibrated."""
MARGIN = 20
"""Letters by which the name of a folder is longer while it is made."""


def export_peer(argv: Sequence[str]) -> int:
    """Write the student of one peer of a run; returns the status."""
    parser = argparse.ArgumentParser(
        prog="mmkd export", description="A trained student as files that run without mmkd and without torch."
    )
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--peer", required=True, help="whose student is written")
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument("--out", type=Path, help="folder that is made; export/PEER in the run's, if left out")
    parser.add_argument(
        "--formats", nargs="+", default=["onnx"], help="of onnx, int8, torch and executorch; onnx if left out"
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
    from mmkd.edge.exporting import export
    from mmkd.edge.trained import trained
    from mmkd.edge.validating import validated

    run = trained(options.run, options.ckpt_path, rest)
    data, peer, student = run.data, options.peer, run.student(options.peer)
    facts = validated(student, data, peer, options.ask)
    done = export(
        student,
        _first(data, peer, "test"),
        options.out or folder_of(options.run, peer),
        formats=options.formats,
        calibration=_first(data, peer, "val") if "int8" in options.formats else None,
        temperature=facts.temperature,
        threshold=facts.threshold,
        classes=getattr(data, "classes", ()),
        tokenizer=data.tokenizer(),
        about={"peer": peer, "run": run.name, "checkpoint": run.checkpoint, **facts.said},
    )
    print((done.folder / "README.md").read_text(encoding="utf-8"))
    print(f"export: {done.folder}")
    return 0


def offload(argv: Sequence[str]) -> int:
    """Compare policies of when devices ask larger peers; returns the status."""
    parser = argparse.ArgumentParser(
        prog="mmkd offload", description="What devices win by asking larger peers, by policy and budget."
    )
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--to", nargs="+", required=True, metavar="PEER", help="who is asked, all at once")
    parser.add_argument("--device", nargs="+", metavar="PEER", help="who asks; all others, if left out")
    parser.add_argument(
        "--link",
        nargs="+",
        default=["wifi"],
        metavar="[PEERS=]LINK",
        help="of devices: lora, nb-iot, lte-m, 4g, wifi, or UP,DOWN,TRIP in bytes a second and seconds",
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        default=["10%", "20%", "50%"],
        metavar="AMOUNT",
        help="of asking, a request: 20%% of requests, 500B, 1.5kB, 30ms, 2s; thresholds are set by it",
    )
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument("--out", type=Path, help="folder of the tables and the picture; offload in the run's")
    options, rest = parser.parse_known_args(argv)
    from mmkd.edge.budgets import budget
    from mmkd.edge.links import link

    budgets = [budget(text) for text in options.budget]
    for text in options.link:
        link(text.rpartition("=")[2])
    from mmkd.edge.comparing import compared
    from mmkd.edge.showing import table, write
    from mmkd.edge.trained import trained

    run = trained(options.run, options.ckpt_path, rest)
    found = compared(run, options.device, options.to, over=options.link, budgets=budgets)
    print(table(found))
    out = options.out or options.run / "offload"
    write(found, out)
    print(f"\noffloading: {out}")
    return 0


def serve(argv: Sequence[str]) -> int:
    """Answer the questions of devices until it is told to end; returns the status."""
    parser = argparse.ArgumentParser(prog="mmkd serve", description="Answer what devices ask a trained peer.")
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--peer", required=True, help="who answers")
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument(
        "--listen", nargs="*", default=[], metavar="ENDPOINT", help="such as tcp/127.0.0.1:7447"
    )
    parser.add_argument("--hosts", nargs="*", default=[], metavar="ENDPOINT", help="of other processes")
    parser.add_argument("--study", default="edge", help="name that devices and services share")
    parser.add_argument("--keys", metavar="FOLDER", help="certificates, made by mmkd network keys")
    parser.add_argument("--open", action="store_true", help="the network is closed to strangers")
    options, rest = parser.parse_known_args(argv)
    if not options.listen and not options.hosts:
        raise ConfigError("nobody could ask: give --listen, or --hosts")
    from mmkd.edge.serving import serve_until_told
    from mmkd.edge.trained import trained

    run = trained(options.run, options.ckpt_path, rest)
    counts = serve_until_told(
        run, options.peer, options.study, options.listen, options.hosts, options.keys, open=options.open
    )
    print("questions: " + (", ".join(f"{count:,} {what}" for what, count in counts.items()) or "none"))
    return 0


def folder_of(run: Path, peer: str) -> Path:
    """The folder in which a peer of a run is exported, unless another is named.

    Raises:
        ConfigError: the peer's name cannot be that of a folder.
    """
    name = peer.replace("/", "-")
    if why := no_file(name + MARGIN * "-"):
        raise ConfigError(f"the name of '{peer[:20]}...' {why}: name a folder with --out")
    return run / "export" / name


COMMANDS = {"export": export_peer, "offload": offload, "serve": serve}
"""By name."""


def run(argv: Sequence[str]) -> int:
    """Run one of them; returns the status."""
    return COMMANDS[argv[0]](argv[1:])


def _first(data: Any, peer: str, split: str) -> Any:
    """The first samples of a split, as the student reads them."""
    import torch

    from mmkd.edge.validating import read

    count = len(data.reader(peer, split))
    if count < 2:
        raise ConfigError(f"peer '{peer}' has {count} {split} samples, and an export needs at least two")
    return read(data, peer, split, torch.arange(min(count, SAMPLES))).x

"""The commands ``mmkd compress``, ``export``, ``offload`` and ``serve``, which import slow libraries late."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkd.errors import ConfigError
from mmkd.names import no_file

MARGIN = 20
"""Letters by which the name of a folder is longer while it is made."""
if TYPE_CHECKING:
    from mmkd.edge.compression.saved import Saved
    from mmkd.edge.trained import Trained
    from mmkd.types import PeerName

COMPRESSED = "folder that mmkd compress wrote, whose student stands for the run's own"
"""Help of an option of several commands."""


def compress(argv: Sequence[str]) -> int:
    """Compress the student of one peer of a run, and say how it does; returns the status."""
    parser = argparse.ArgumentParser(
        prog="mmkd compress", description="A trained student made smaller, alone or with distillation."
    )
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--peer", required=True, help="whose student is compressed; the run keeps its own")
    parser.add_argument(
        "--steps",
        nargs="*",
        default=[],
        metavar="STEP",
        help="in this order, of prune:SHARE, sparse:SHARE, lowrank:SHARE, int8-aware, int8 and heal",
    )
    parser.add_argument("--distil", default="none", help="none, self, neighbours, or a file of heard answers")
    parser.add_argument("--heal", type=int, default=0, metavar="STEPS", help="local steps in all")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the student's learning rate")
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument(
        "--out", type=Path, help="folder that is made; compressed/PEER in the run's, if left out"
    )
    options, rest = parser.parse_known_args(argv)
    from mmkd.edge.compression.measured import first, measured
    from mmkd.edge.compression.recipe import Recipe, compressed
    from mmkd.edge.compression.saved import write
    from mmkd.edge.trained import trained

    recipe = Recipe(options.steps, distil=options.distil, heal=options.heal, rate=options.rate)
    run, peer = trained(options.run, options.ckpt_path, rest), options.peer
    before, after = run.student(peer), compressed(run, peer, recipe)
    out = options.out or folder_of(options.run, "compressed", peer)
    write(after, run, peer, recipe, out, first(run.data, peer, "test"))
    print(f"{'':12}{'parameters':>12}{'score':>8}{'bytes':>12}{'gzip':>12}{'median ms':>11}")
    for name, student, form in (("original", before, "onnx"), ("compressed", after, recipe.format)):
        found, count = measured(student, run.data, peer, form), sum(p.numel() for p in student.parameters())
        print(
            f"{name:12}{count:12,}{found.score:8.3f}{found.bytes:12,}{found.gzip:12,}{found.median_ms:11.3f}"
        )
    print(f"compressed: {out}")
    return 0


def export_peer(argv: Sequence[str]) -> int:
    """Write the student of one peer of a run; returns the status."""
    parser = argparse.ArgumentParser(
        prog="mmkd export", description="A trained student as files that run without mmkd and without torch."
    )
    parser.add_argument("run", type=Path, help="folder of a run, with config.yaml and checkpoints")
    parser.add_argument("--peer", required=True, help="whose student is written")
    parser.add_argument("--ckpt_path", type=Path, help="of the run; the newest, if left out")
    parser.add_argument("--out", type=Path, help="folder that is made; export/PEER in the run's, if left out")
    parser.add_argument("--compressed", nargs=1, type=Path, default=[], metavar="FOLDER", help=COMPRESSED)
    parser.add_argument(
        "--formats",
        nargs="+",
        help="of onnx, int8, torch and executorch; onnx if left out, and int8 if the student is for it",
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
    from mmkd.edge.compression.measured import first
    from mmkd.edge.exporting import export
    from mmkd.edge.validating import validated

    run, compression = _trained(options, rest)
    known = compression.get(options.peer)
    formats = options.formats or (["onnx", "int8"] if known and known.format == "int8" else ["onnx"])
    if compression and known is None:
        raise ConfigError(
            f"{options.compressed[0]} holds the student of '{next(iter(compression))}', not of"
            f" '{options.peer}'"
        )
    data, peer, student = run.data, options.peer, run.student(options.peer)
    facts = validated(student, data, peer, options.ask)
    done = export(
        student,
        first(data, peer, "test"),
        options.out or folder_of(options.run, "export", peer),
        formats=formats,
        calibration=first(data, peer, "val") if "int8" in formats else None,
        temperature=facts.temperature,
        threshold=facts.threshold,
        classes=getattr(data, "classes", ()),
        tokenizer=data.tokenizer(),
        about={"peer": peer, "run": run.name, "checkpoint": run.checkpoint, **facts.said}
        | ({} if known is None else {"compressed": known.said}),
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
    parser.add_argument("--compressed", nargs="+", type=Path, default=[], metavar="FOLDER", help=COMPRESSED)
    parser.add_argument("--out", type=Path, help="folder of the tables and the picture; offload in the run's")
    options, rest = parser.parse_known_args(argv)
    from mmkd.edge.budgets import budget
    from mmkd.edge.links import link

    budgets = [budget(text) for text in options.budget]
    for text in options.link:
        link(text.rpartition("=")[2])
    from mmkd.edge.comparing import compared
    from mmkd.edge.showing import table, write

    run = _trained(options, rest)[0]
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
    parser.add_argument("--compressed", nargs="+", type=Path, default=[], metavar="FOLDER", help=COMPRESSED)
    options, rest = parser.parse_known_args(argv)
    if not options.listen and not options.hosts:
        raise ConfigError("nobody could ask: give --listen, or --hosts")
    from mmkd.edge.serving import serve_until_told

    run, _ = _trained(options, rest)
    counts = serve_until_told(
        run, options.peer, options.study, options.listen, options.hosts, options.keys, open=options.open
    )
    print("questions: " + (", ".join(f"{count:,} {what}" for what, count in counts.items()) or "none"))
    return 0


def folder_of(run: Path, kind: str, peer: str) -> Path:
    """The folder in a run's of what is made of a peer: ``export``, ``compressed``.

    Raises:
        ConfigError: the peer's name cannot be that of a folder.
    """
    name = peer.replace("/", "-")
    if why := no_file(name + MARGIN * "-"):
        raise ConfigError(f"the name of '{peer[:20]}...' {why}: name a folder with --out")
    return run / kind / name


COMMANDS = {"compress": compress, "export": export_peer, "offload": offload, "serve": serve}
"""By name."""


def run(argv: Sequence[str]) -> int:
    """Run one of them; returns the status."""
    return COMMANDS[argv[0]](argv[1:])


def _trained(options: argparse.Namespace, rest: Sequence[str]) -> tuple[Trained, dict[PeerName, Saved]]:
    """The run, with compressed students in place of its own; and what is known of these, by peer."""
    from mmkd.edge.trained import trained

    run = trained(options.run, options.ckpt_path, rest)
    if not options.compressed:
        return run, {}
    from mmkd.edge.compression.saved import read

    found = {saved.peer: saved for saved in (read(folder, run) for folder in options.compressed)}
    return run._replace(compressed={peer: saved.student for peer, saved in found.items()}), found

"""Mutants of the shipped configurations: each must be sensible, or refused in one line with status 2.

    .venv/bin/python scripts/fuzz_configs.py --mutants 500

Each mutant changes one place of one file: a value of another type or size, a key left out, misspelt or said
twice. The command then runs up to the point at which training would begin. ``--file`` and ``--place`` choose
mutants, ``--list`` prints what came of each. The status is 1 if there was a traceback, or no answer in time.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import torch
import yaml
from lightning.pytorch import Trainer
from yaml import CSafeLoader

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from datamodules import parking  # noqa: E402  # after the path is set
from mmkd.__main__ import main  # noqa: E402  # after the path is set
from mmkd.students import DetectionStudent  # noqa: E402  # after the path is set

CAMERAS = {"data": "cameras", "peers": "cameras", "trainer": "cameras"}
"""What a method about cameras is run with."""
BESIDE = {
    **{name: {"peers": "trio_sgd"} for name in ("mime", "mimelite", "fednova", "fedlin", "fedshuffle")},
    "gradient_tracking": {"peers": "trio_sgd"},
    **{name: {"peers": "mixed"} for name in ("mhd", "mhd_public", "heterofl")},
    **dict.fromkeys(("oracle_weak", "oracle_strong", "shared_detections"), CAMERAS),
}
"""What a method is run with, where it is not the usual."""
WITH = {
    "digits_iid": {"peers": "pooled", "method": "isolated"},
    "synthetic_logistic": {"peers": "logistic30"},
    "fashion_mnist": {"peers": "vision20"},
    "vision20": {"data": "fashion_mnist"},
    "emoji": {"data": "emoji", "peers": "emoji"},
    "smartwatch": {"peers": "watches"},
    "watches": {"data": "smartwatch"},
    **{name: {"peers": "colour20"} for name in ("cifar10", "cifar100")},
    **{name: {"peers": "listeners"} for name in ("speech_commands", "esc50", "crema_d")},
    "ag_news": {"peers": "readers"},
    "uci_har": {"peers": "sensors"},
    "mm_imdb": {"peers": "posters"},
    "colour20": {"data": "cifar10"},
    "listeners": {"data": "esc50"},
    "readers": {"data": "ag_news"},
    "sensors": {"data": "uci_har"},
    "posters": {"data": "mm_imdb"},
    "logistic30": {"data": "synthetic_logistic"},
    "fusion": {"method": "gossip"},
    "mixed": {"method": "mhd"},
    "pooled": {"method": "isolated"},
    **{
        name: {**CAMERAS, "method": "shared_detections"}
        for name in ("cameras", "oracle_weak", "oracle_strong")
    },
}
"""What data, peers or trainers are run with, where it is not the usual."""
USUAL = {"data": "digits", "peers": "trio", "method": "fedavg", "trainer": "quick"}
"""One file of each folder."""
NUMBERS = ("-1", "0", "1", "1000000", "1000000000000", "-0.5", "0.5", "2.5", "1.0e+30", ".nan", ".inf", "'x'")
"""What takes the place of a number."""
OTHERS = ("-1", "0", "''", "nothing_of_that_name", "[]", "{}", "[1, [2]]", "{a: 1}", "true", "null")
"""What takes the place of anything."""


class Reached(BaseException):
    """Training would begin now."""


class TooLong(BaseException):
    """The time limit is over."""


@dataclass(frozen=True)
class Mutant:
    """A change of one place of one file.

    Args:
        path: of the file, below ``configs``.
        keys: that lead to the place, and positions in lists.
        change: what stands there: a value, or what becomes of its key (``removed``, ``misspelt``, ``twice``).
    """

    path: Path
    keys: tuple[str, ...]
    change: str

    def __str__(self) -> str:
        return f"{self.path}: {'.'.join(self.keys)}: {self.change}"


def tree_of(path: Path) -> Any:
    """The nodes of a shipped file, with which a key may be there twice."""
    return yaml.compose((ROOT / "configs" / path).read_text(), CSafeLoader)


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file."""
    for keys, keyed, value in places(tree_of(path), ()):
        given = NUMBERS if value.tag.endswith((":int", ":float")) else OTHERS
        for change in (*given, "removed", *(("misspelt", "twice") if keyed else ())):
            yield Mutant(path, keys, change)


def places(node: yaml.Node, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool, yaml.Node]]:
    """The keys and positions that lead to all values, whether the last is a key, and the values."""
    keyed = isinstance(node, yaml.MappingNode)
    for i, entry in enumerate(node.value if isinstance(node, yaml.CollectionNode) else ()):
        here = (*way, entry[0].value if keyed else str(i))
        child = entry[1] if keyed else entry
        yield here, keyed, child
        yield from places(child, here)


def mutated(mutant: Mutant) -> str:
    """The text of the mutant's file."""
    tree = tree_of(mutant.path)
    holder: yaml.Node = tree
    node, at = holder, 0
    for name in mutant.keys:
        holder = node
        keyed = isinstance(holder, yaml.MappingNode)
        at = [key.value for key, _ in holder.value].index(name) if keyed else int(name)
        node = holder.value[at][1] if keyed else holder.value[at]
    if mutant.change == "removed":
        del holder.value[at]
    elif mutant.change == "misspelt":
        holder.value[at][0].value += "z"
    elif mutant.change == "twice":
        holder.value.append(copy.deepcopy(holder.value[at]))
    else:
        new = yaml.compose(mutant.change, CSafeLoader)
        holder.value[at] = (holder.value[at][0], new) if isinstance(holder, yaml.MappingNode) else new
    return yaml.serialize(tree)


def command(mutant: Mutant, configs: Path) -> list[str]:
    """The arguments of ``mmkd`` that read the mutant's file, in a folder of such files."""
    part, name = mutant.path.parts[0], mutant.path.stem
    if part in ("study", "tuned"):
        named = mutant.keys[min(mutant.keys[0] == "methods", len(mutant.keys) - 1)]
        methods = yaml.safe_load((ROOT / "configs" / "study" / mutant.path.name).read_text())["methods"]
        only = named if named in methods else next(iter(methods))
        study, quiet = str(configs / "study" / mutant.path.name), ["--set", "trainer.logger=false"]
        out = f"{tempfile.mkdtemp(dir=configs.parent)}/out"
        return ["tradeoff", study, "--out", out, "--only", only, "--seeds", "0", *quiet]
    beside = {**USUAL, **(BESIDE if part == "method" else WITH).get(name, {}), part: name}
    files = [configs / folder / f"{file}.yaml" for folder, file in beside.items()]
    few = ["--data.init_args.public=0.5"] if beside["data"] == "cameras" and part != "data" else []
    return ["fit", *(f"--config={file}" for file in files), *few, "--trainer.logger=false"]


def car_park(folder: Path) -> None:
    """Frames and weights that the files about cameras read, drawn small."""
    out = folder / "results" / "cameras"
    parking.render(out / "scenes", parking.car_park(days=3, frames_per_day=4))
    for name, file in (("student", "cameras"), ("weak", "oracle_weak"), ("strong", "oracle_strong")):
        peers = yaml.safe_load((ROOT / "configs" / "peers" / f"{file}.yaml").read_text())["model"]["peers"]
        given = peers["cameras"]["student"]["init_args"]
        student = DetectionStudent(1, detector=given["detector"], settings=given["settings"])
        torch.save({"state_dict": student.state_dict()}, out / f"{name}.ckpt")


def stop(*_: Any, **__: Any) -> NoReturn:
    """Takes the place of training."""
    raise Reached


def late(*_: Any) -> NoReturn:
    """Ends a mutant that takes too long."""
    raise TooLong


def outcome(arguments: Sequence[str], seconds: int) -> tuple[str, str]:
    """What becomes of a command (``sensible``, ``refused``, ``traceback``, ``hang``), and what it says."""
    said = io.StringIO()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        # Lightning has no hook between setting everything up and training.
        with patch.object(Trainer, "_run_stage", stop), redirect_stderr(said), redirect_stdout(io.StringIO()):
            status: Any = main(arguments)
    except Reached:
        return "sensible", ""
    except TooLong:
        return "hang", traceback.format_exc()
    except SystemExit as error:
        status = error.code
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        signal.alarm(0)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("mmkd: ")]
    return ("refused" if status == 2 and len(lines) == 1 else "traceback"), said.getvalue()


def settled(work: Path) -> Path:
    """A working directory with a copy of all configurations, and their data; returns the copy."""
    car_park(work)
    if (ROOT / ".cache").is_dir():
        (work / ".cache").symlink_to(ROOT / ".cache")
    return Path(shutil.copytree(ROOT / "configs", work / "configs"))


def attempt(mutant: Mutant, configs: Path, seconds: int) -> tuple[str, str]:
    """What becomes of a mutant, and what it says."""
    file = configs / mutant.path
    original = file.read_text()
    file.write_text(mutated(mutant))
    try:
        return outcome(command(mutant, configs), seconds)
    finally:
        file.write_text(original)


def run(argv: Sequence[str] | None = None) -> int:
    """Try mutants and print how many were what; 1 if some had a traceback or gave no answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mutants", type=int, default=500, help="drawn from all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=int, default=20, help="time limit of a mutant")
    parser.add_argument("--file", default="", help="part of the names of files")
    parser.add_argument("--place", default="", help="part of the keys of places")
    parser.add_argument("--list", action="store_true", help="print every mutant")
    options = parser.parse_args(argv)
    os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    resource.setrlimit(
        resource.RLIMIT_AS, (32 << 30, resource.RLIM_INFINITY)
    )  # what asks for more has no meaning
    files = sorted(p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml"))
    everything = [m for path in files if options.file in str(path) for m in mutants(path)]
    everything = [m for m in everything if options.place in ".".join(m.keys)]
    random.Random(options.seed).shuffle(everything)
    # As many of each folder: studies are long, and would be most of them.
    seen: Counter[str] = Counter()
    turns = [(seen.update([folder]) or seen[folder], m) for m in everything if (folder := m.path.parts[0])]
    everything = [m for _, m in sorted(turns, key=lambda turn: turn[0])]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        configs = settled(Path(folder))
        for mutant in everything[: options.mutants]:
            began = time.monotonic()
            what, said = attempt(mutant, configs, options.seconds)
            counts[what] += 1
            if options.list or what in ("traceback", "hang"):
                took = time.monotonic() - began
                print(f"{what} {took:.1f} s: {mutant}: {said.strip()}", flush=True)
    words = {
        "refused": "refused in one line",
        "sensible": "sensible",
        "traceback": "tracebacks",
        "hang": "hangs",
    }
    print(f"{counts.total()} mutants:", ", ".join(f"{counts[k]} {word}" for k, word in words.items()))
    return int(counts["traceback"] + counts["hang"] > 0)


if __name__ == "__main__":
    sys.exit(run())

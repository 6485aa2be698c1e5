"""Writes a student into a folder that a device runs, once it is found to say there what it says here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from torch import Tensor

from mmkd.edge import predict
from mmkd.edge.card import card
from mmkd.edge.exported import Exported
from mmkd.edge.formats import FORMATS, Onnx
from mmkd.edge.graph import Graph
from mmkd.edge.reading import TOKENIZER, Input, inputs_of
from mmkd.names import near
from mmkd.students.base import Student
from mmkd.types import Classes, ConfigError, Detections, Tags, Views

PARITY = 1e-4
"""The most by which an output may differ from the student's, of what it says of real samples."""
ABOUT = "model.json"
"""File that says what a model reads and says; the mark of an exported folder."""
TIMED = 100
"""Predictions that are timed."""


def export(
    student: Student,
    samples: Views,
    folder: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
    calibration: Views | None = None,
    temperature: float = 1.0,
    threshold: float = 0.0,
    classes: Sequence[str] = (),
    tokenizer: str | None = None,
    about: dict[str, Any] | None = None,
) -> Exported:
    """Write a student as files that other runtimes run, with a program that reads files and texts.

    A folder of that name is replaced if an export wrote it, once all of the new one is there.

    Args:
        student: in single precision on the CPU.
        samples: real ones as its data hand them out, at least two, on which files and student are compared.
        folder: that is made.
        formats: ``onnx``, ``int8``, ``torch``, ``executorch``.
        calibration: other samples, by which ``int8`` learns how great numbers become.
        temperature: by which logits are divided before they become probabilities.
        threshold: probability below which the device calls itself unsure.
        classes: their names.
        tokenizer: of texts, as JSON of the tokenizers library; characters, if left out.
        about: further facts for the model card: what was trained, and how well it does.

    Raises:
        ConfigError: a format is unknown or cannot express the student, samples to calibrate on are missing, a
            file says something else than the student, or the folder holds something else.
    """
    folder = Path(folder)
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"there is no format '{name}'{near(name, FORMATS)}; there are {', '.join(FORMATS)}"
            )
    if folder.exists() and not (folder / ABOUT).is_file():
        raise ConfigError(f"{folder} is there and is no export; give another name")
    if any(p.dtype != torch.float32 for p in student.parameters()):
        raise ConfigError("a student is exported in single precision: call student.float()")
    graph = Graph(student, temperature)
    arguments = graph.arguments(samples)
    given = None if calibration is None else graph.arguments(calibration)
    if given is None and (lacking := [name for name in formats if not FORMATS[name].exact]):
        raise ConfigError(f"{lacking[0]} is calibrated on samples of its own: give calibration")
    inputs = inputs_of(graph, arguments, tokenizer)
    part = folder.with_name(f"{folder.name}.{token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        found = {name: _written(name, graph, arguments, given, part) for name in formats}
        parity = {name: away for name, (away, _) in found.items()}
        agreement = {name: share for name, (_, share) in found.items() if share is not None}
        size = {name: (part / FORMATS[name].file).stat().st_size for name in formats}
        _describe(part, graph, inputs, threshold, classes, tokenizer)
        measured = {n: _measured(part, kind.file) for n in formats if isinstance(kind := FORMATS[n], Onnx)}
        done = Exported(folder, parity, agreement, size, measured)
        text = card(graph, inputs, done, temperature, threshold, list(classes), about or {})
        (part / "README.md").write_text(text, encoding="utf-8")
        before = part.with_suffix(".before")
        if folder.exists():
            os.replace(folder, before)
        os.replace(part, folder)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _written(
    name: str,
    graph: Graph,
    arguments: tuple[Tensor, ...],
    calibration: tuple[Tensor, ...] | None,
    folder: Path,
) -> tuple[float, float | None]:
    """Write one format; returns by how much it differs from the student on all samples.

    And how often it agrees with a student that names classes.
    """
    kind = FORMATS[name]
    path = folder / kind.file
    source = arguments if kind.exact else calibration
    assert source is not None
    kind.write(graph, source, path)
    run, worst, same = kind.load(path), 0.0, 0
    count = len(arguments[0])
    for size in {1, 2, count} if kind.batch is None else {kind.batch}:
        for start in range(0, count - size + 1, size):
            some = tuple(argument[start : start + size] for argument in arguments)
            with torch.no_grad():
                wanted = graph(*some)
            if any(bool(output.isnan().any()) for output in wanted):
                raise ConfigError("the student says what is no number of samples that are: it has diverged")
            found = [output.detach() for output in run(some)]
            for output, mine, right in zip(graph.outputs, found, wanted, strict=True):
                away = float((mine - right).abs().max())
                worst = max(worst, away / max(1.0, float(right.abs().max())))
                if mine.shape != right.shape or (kind.exact and not worst <= PARITY):
                    raise ConfigError(
                        f"{path.name} says something else than the student: '{output}' of samples"
                        f" {start} to {start + size - 1} differs by {away:.2g}"
                    )
            if size == 1:
                same += int(bool((found[0].argmax(-1) == wanted[0].argmax(-1)).all()))
    return worst, same / count if graph.student.gives is Classes else None


def _describe(
    folder: Path,
    graph: Graph,
    inputs: list[Input],
    threshold: float,
    classes: Sequence[str],
    tokenizer: str | None,
) -> None:
    """What the program beside the model reads."""
    kinds = {Classes: "classes", Tags: "tags", Detections: "detections"}
    said = {
        "kind": kinds.get(graph.student.gives, "values"),
        "inputs": [{k: v for k, v in given._asdict().items() if v is not None} for given in inputs],
        "outputs": graph.outputs,
        "classes": list(classes),
        "temperature": graph.temperature,
        "threshold": threshold,
    }
    (folder / ABOUT).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if tokenizer is not None and any(given.kind == "text" for given in inputs):
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    shutil.copyfile(predict.__file__, folder / "predict.py")


def _measured(folder: Path, file: str) -> dict[str, float]:
    """What the program takes on one core, in a process of its own."""
    command = [sys.executable, "predict.py", "--model", file, "--time", str(TIMED)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"predict.py does not run: {done.stderr.strip()[-200:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured

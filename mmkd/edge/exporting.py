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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmkd.edge import predict
from mmkd.edge.card import card
from mmkd.edge.formats import FORMATS
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


class Exported(NamedTuple):
    """What was written, and how it was found to be."""

    folder: Path
    parity: dict[str, float]  # greatest difference of an output, by format
    size: dict[str, int]  # bytes of each file
    measured: dict[str, float]  # of onnxruntime on one core: median_ms, p95_ms, peak_mib, model_mib


def export(
    student: Student,
    samples: Views,
    folder: str | Path,
    *,
    formats: Sequence[str] = ("onnx",),
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
        formats: ``onnx``, ``torch``, ``executorch``.
        temperature: by which logits are divided before they become probabilities.
        threshold: probability below which the device calls itself unsure.
        classes: their names.
        tokenizer: of texts, as JSON of the tokenizers library; characters, if left out.
        about: further facts for the model card: what was trained, and how well it does.

    Raises:
        ConfigError: a format is unknown or cannot express the student, a file says something else than the
            student, or the folder holds something else.
    """
    folder = Path(folder)
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"there is no format '{name}'{near(name, FORMATS)}; there are {', '.join(FORMATS)}"
            )
    if folder.exists() and not (folder / ABOUT).is_file():
        raise ConfigError(f"{folder} is there and is no export; give another name")
    if student.gives is Classes and not student.main.weight.dtype == torch.float32:  # type: ignore[union-attr]
        raise ConfigError("a student is exported in single precision: call student.float()")
    graph = Graph(student, temperature)
    arguments = graph.arguments(samples)
    inputs = inputs_of(graph, arguments, tokenizer)
    part = folder.with_name(f"{folder.name}.{token_hex(4)}.part")
    part.mkdir(parents=True)
    try:
        parity = {name: _written(name, graph, arguments, part / FORMATS[name].file) for name in formats}
        size = {FORMATS[name].file: (part / FORMATS[name].file).stat().st_size for name in formats}
        _describe(part, graph, inputs, threshold, classes, tokenizer)
        measured = _measured(part) if "onnx" in formats else {}
        text = card(graph, inputs, parity, size, measured, temperature, threshold, list(classes), about or {})
        (part / "README.md").write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(folder, parity, size, measured)


def _written(name: str, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> float:
    """Write one format, and return by how much it differs from the student on all samples."""
    kind = FORMATS[name]
    kind.write(graph, arguments, path)
    run, worst = kind.load(path), 0.0
    count = len(arguments[0])
    for size in {1, 2, count} if kind.batch is None else {kind.batch}:
        for start in range(0, count - size + 1, size):
            some = tuple(argument[start : start + size] for argument in arguments)
            with torch.no_grad():
                wanted = graph(*some)
            for output, found, right in zip(graph.outputs, run(some), wanted, strict=True):
                away = float((found.detach() - right).abs().max())
                worst = max(worst, away / max(1.0, float(right.abs().max())))
                if found.shape != right.shape or not worst <= PARITY:
                    raise ConfigError(
                        f"{path.name} says something else than the student: '{output}' of samples"
                        f" {start} to {start + size - 1} differs by {away:.2g}"
                    )
    return worst


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


def _measured(folder: Path) -> dict[str, float]:
    """What the program takes on one core, in a process of its own."""
    command = [sys.executable, "predict.py", "--time", str(TIMED)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"predict.py does not run: {done.stderr.strip()[-200:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured

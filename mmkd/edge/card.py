"""The model card of an exported student: what it is, what it reads, and how it was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd.edge.exported import Exported
from mmkd.edge.formats import FORMATS, OPSET
from mmkd.edge.graph import Graph
from mmkd.edge.reading import Input

EXAMPLES = {"image": "photo.png", "sound": "sound.wav", "text": '"a text"', "array": "numbers.npy"}
"""An argument of ``predict.py`` for each kind of input."""


def card(
    graph: Graph,
    inputs: list[Input],
    done: Exported,
    temperature: float,
    threshold: float,
    classes: list[str],
    about: Mapping[str, Any],
) -> str:
    """The card, in Markdown."""
    student = graph.student
    parameters = sum(p.numel() for p in student.parameters())
    lines = [f"# {about.get('peer', type(student).__name__)}", ""]
    lines += [f"{type(student).__name__}, {parameters:,} parameters, exported by mmkd. Run it with", ""]
    views = [given for given in inputs if given.kind != "shown"]
    example = (
        ",".join(f"{v.name}={EXAMPLES[v.kind]}" for v in views) if len(views) > 1 else EXAMPLES[views[0].kind]
    )
    lines += [f"    python predict.py {example}", "", "## What it reads", ""]
    lines += [f"- `{given.name}`: {_said(given)}" for given in inputs]
    lines += ["", "## What it says", "", f"- outputs: {', '.join(graph.outputs)}"]
    if classes:
        shown = ", ".join(classes[:50]) + (", ..." if len(classes) > 50 else "")
        lines += [f"- {len(classes)} classes: {shown}"]
    if "probabilities" in graph.outputs:
        lines += [f"- probabilities are those of logits / {temperature:.3g}"]
        lines += [f"- it calls itself unsure below a probability of {threshold:.3g}"] if threshold > 0 else []
    lines += ["", "## How it was found to be", ""]
    for name, away in done.parity.items():
        line = f"- `{FORMATS[name].file}`: {done.size[name]:,} bytes"
        line += f"; differs from the student by at most {away:.1e}"
        if name in done.agreement:
            line += f", and names {done.agreement[name]:.1%} of the samples alike"
        lines.append(line)
        if taken := done.measured.get(name):
            lines.append(
                "  - onnxruntime, one sample on one core of the machine that exported it:"
                f" {taken['median_ms']:.3f} ms (95 % below {taken['p95_ms']:.3f});"
                f" {taken['peak_mib']:.0f} MiB of memory at most,"
                f" {taken['model_mib']:.0f} of them since it began to load the model"
            )
    if {"onnx", "int8"} <= done.size.keys():
        smaller = done.size["int8"] / done.size["onnx"]
        faster = done.measured["int8"]["median_ms"] / done.measured["onnx"]["median_ms"]
        lines.append(f"- in 8 bits it takes {smaller:.2f} of the bytes and {faster:.2f} of the time")
    lines += [f"- {name}: {value}" for name, value in about.items() if name != "peer"]
    lines += [f"- ONNX operators of set {OPSET}"] if "onnx" in done.size else []
    lines += [
        "",
        "It learned from its owner's samples and from what others taught it. Figures are of samples of the",
        "same kind; of others it says something, too, and is not to be believed.",
        "",
    ]
    return "\n".join(lines)


def _said(given: Input) -> str:
    shape = " x ".join(map(str, given.shape))
    if given.kind == "image":
        numbers = "bytes" if given.dtype == "uint8" else "numbers of 0 to 1"
        return f"an image, {shape} {numbers} (channels, height, width)"
    if given.kind == "sound":
        return f"a sound, {shape} numbers of -1 to 1 at {given.rate} Hz"
    if given.kind == "text":
        tokens = "characters" if given.tokenizer == "characters" else f"tokens of `{given.tokenizer}`"
        return f"a text, {shape} {tokens}, 0 behind its end"
    if given.kind == "shown":
        return f"whether `{given.name.partition('/')[2]}` is there"
    return f"{shape} numbers ({given.dtype}), in a file of numpy"

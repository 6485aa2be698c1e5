"""How a graph is written for other runtimes, and run again from the file that was written."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkd.edge.graph import Graph
from mmkd.edge.suppression import translations
from mmkd.types import ConfigError

OPSET = 20
"""Of the operators of ONNX: the first that resizes, suppresses and transforms as is needed here."""
LEARNED = ["Conv", "Gemm", "MatMul", "Gather"]
"""Operators that 8 bits make smaller and faster, where they hold what a student has learned."""
CALIBRATED = 32
"""Samples that calibrate a graph of whole numbers at once."""
MOST = 4096
"""The largest batch that a graph reads."""

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""Runs a graph from its file."""


class Format(ABC):
    """A kind of file."""

    file: ClassVar[str]
    """Its name in the folder of an export."""
    batch: ClassVar[int | None] = None
    """How many samples it reads at once; any number, if None."""
    exact: ClassVar[bool] = True
    """Whether it is to say what the student says, but for rounding; otherwise it is calibrated on samples."""

    @abstractmethod
    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Write a graph.

        Args:
            graph: what the file is to compute.
            arguments: of some samples, at least two; of a format that is not exact, those that calibrate it.
            path: of the file.

        Raises:
            ConfigError: a package is missing, or the student does what this kind of file cannot express.
        """

    @abstractmethod
    def load(self, path: Path) -> Run:
        """Read the file that was written, in the runtime that will run it."""


class Onnx(Format):
    """ONNX, for onnxruntime and many others; of any batch up to ``MOST``."""

    file = "model.onnx"

    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Write the graph, and have the checker of ONNX look at it."""
        with _exporting("ONNX"):
            import onnx

            program = torch.onnx.export(
                graph,
                arguments,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=_any_batch(arguments),
                opset_version=OPSET,
                custom_translation_table=translations(),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(path)
            onnx.checker.check_model(path, full_check=True)

    def load(self, path: Path) -> Run:
        """Run it in onnxruntime."""
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(arguments: Sequence[Tensor]) -> list[Tensor]:
            feed = {name: t.numpy() for name, t in zip(names, arguments, strict=True)}
            return [torch.from_numpy(found) for found in session.run(None, feed)]

        return run


class Int8(Onnx):
    """ONNX whose weights and activations are whole numbers of 8 bits, by onnxruntime's static quantisation.

    Scales are those of the greatest numbers that the calibrating samples make, of weights channel by channel.
    Weights take 7 of the 8 bits: processors without instructions for sums of products of 8 bits (x86 before
    VNNI) add two of these in 16 bits, which overflow, and say something else than all others.
    What has no parameters of the student, such as a spectrogram, stays in floats.
    """

    file = "model.int8.onnx"
    exact = False

    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Write the graph in floats, and quantise it."""
        with TemporaryDirectory() as folder, _exporting("8 bits"):
            from onnxruntime import quantization
            from onnxruntime.quantization.shape_inference import quant_pre_process

            whole, ready = Path(folder) / "whole.onnx", Path(folder) / "ready.onnx"
            super().write(graph, arguments, whole)
            quant_pre_process(whole, ready, skip_symbolic_shape=True)
            parts = zip(*(argument.split(CALIBRATED) for argument in arguments), strict=True)
            feeds = (dict(zip(graph.inputs, (t.numpy() for t in part), strict=True)) for part in parts)
            kind = quantization.QuantType.QInt8
            quantization.quantize_static(
                ready,
                path,
                _Feeds(feeds),
                op_types_to_quantize=LEARNED,
                nodes_to_exclude=_not_learned(
                    ready, {f"student.{n}" for n, _ in graph.student.named_parameters()}
                ),
                per_channel=True,
                reduce_range=True,
                activation_type=kind,
                weight_type=kind,
            )


def _not_learned(path: Path, parameters: set[str]) -> list[str]:
    """Nodes without a parameter of the student: a spectrogram in 8 bits has lost what is not loud."""
    import onnx

    nodes = onnx.load(path).graph.node
    return [node.name for node in nodes if node.op_type in LEARNED and parameters.isdisjoint(node.input)]


class _Feeds:
    """Calibrating samples as onnxruntime asks for them."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        """The next samples, or None behind the last."""
        return next(self._feeds, None)


class Torch(Format):
    """A program of ``torch.export``; of detectors one that needs mmkd to run."""

    file = "model.pt2"

    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Write the program."""
        with _exporting("torch.export"):
            program = torch.export.export(graph, arguments, dynamic_shapes=_any_batch(arguments))
            torch.export.save(program, path)

    def load(self, path: Path) -> Run:
        """Run it in torch."""
        module = torch.export.load(path).module()
        return lambda arguments: list(module(*arguments))


class ExecuTorch(Format):
    """A program of ExecuTorch, for phones and microcontrollers, of one sample, with XNNPACK where it can."""

    file = "model.pte"
    batch = 1

    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Lower the program."""
        one = tuple(argument[:1] for argument in arguments)
        with _exporting("ExecuTorch"):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(graph, one)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)

    def load(self, path: Path) -> Run:
        """Run it in ExecuTorch's runtime."""
        with warnings.catch_warnings():  # ExecuTorch warns that its runtime for Python is experimental
            warnings.simplefilter("ignore")
            from executorch.runtime import Runtime

            method: Any = Runtime.get().load_program(path).load_method("forward")
        return lambda arguments: list(method.execute(list(arguments)))


FORMATS: dict[str, Format] = {"onnx": Onnx(), "int8": Int8(), "torch": Torch(), "executorch": ExecuTorch()}
"""By the names that a command line takes."""


def _any_batch(arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
    batch = torch.export.Dim("batch", min=1, max=MOST)
    return (tuple({0: batch} for _ in arguments),)


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """While a graph is written: exporters print and warn of things that are theirs to mend."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.onnx", "onnxscript", "executorch")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    except ImportError as error:
        raise ConfigError(
            f"{what} needs packages that are missing ({error}): install mmkd[edge]"
            + (" and mmkd[executorch]" if what == "ExecuTorch" else "")
        ) from error
    except Exception as error:  # exporters have an error of their own for each thing that they cannot do
        raise ConfigError(f"the student cannot be written for {what}: {_reason(error)}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """What is behind an exporter's long story."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:200] or type(error).__name__

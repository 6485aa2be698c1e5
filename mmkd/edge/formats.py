"""How a graph is written for other runtimes, and run again from the file that was written."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkd.edge.graph import Graph
from mmkd.edge.suppression import translations
from mmkd.types import ConfigError

OPSET = 20
"""Of the operators of ONNX: the first that resizes, suppresses and transforms as is needed here."""
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

    @abstractmethod
    def write(self, graph: Graph, arguments: tuple[Tensor, ...], path: Path) -> None:
        """Write a graph.

        Args:
            graph: what the file is to compute.
            arguments: of some samples, at least two.
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
        from executorch.runtime import Runtime

        method: Any = Runtime.get().load_program(path).load_method("forward")
        return lambda arguments: list(method.execute(list(arguments)))


FORMATS: dict[str, Format] = {"onnx": Onnx(), "torch": Torch(), "executorch": ExecuTorch()}
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

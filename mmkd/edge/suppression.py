"""Non-maximum suppression in graphs of ONNX, which has an operator for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmkd.students.detectors.suppression import kept


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What becomes of operators of mmkd's own."""
    return {kept._opoverload: _kept}


def _kept(boxes: Any, scores: Any, labels: Any, limit: float) -> Any:
    """Which boxes are kept, class by class: boxes of other classes are moved to where they do not overlap."""
    from onnx import TensorProto
    from onnxscript import opset20

    op: Any = opset20
    beyond = op.Add(op.ReduceMax(op.Abs(boxes), keepdims=0), 1.0)
    moved = op.Add(boxes, op.Mul(op.Unsqueeze(op.CastLike(labels, boxes), [-1]), op.Mul(beyond, 2.0)))
    most = op.Shape(scores, start=1, end=2)
    chosen = op.NonMaxSuppression(moved, op.Unsqueeze(scores, [1]), most, op.Constant(value_floats=[limit]))
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    nothing = op.Mul(scores, 0.0)
    ones = op.Expand(op.CastLike(1.0, scores), op.Shape(places, start=0, end=1))
    return op.Cast(op.ScatterND(nothing, places, ones), to=TensorProto.BOOL)

"""Students that learn in 8 bits: rounded as onnxruntime rounds, and left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmkd.edge.compression.quantised import in_8_bits
from mmkd.edge.formats import FORMATS
from mmkd.edge.graph import Graph
from tests.students.kinds import KINDS

pytest.importorskip("onnxruntime")
pytest.importorskip("torchao")


@pytest.mark.parametrize("kind", ["fusion", pytest.param("audio cnn", marks=pytest.mark.long)])
def test_what_is_trained_is_what_the_file_rounds(kind: str, tmp_path: Path) -> None:
    """Convolutions, linear layers and embeddings: a hundredth of the distance between floats and 8 bits is left.

    The exporter takes ranges of the student in floats, so these are looked at first.
    """
    torch.manual_seed(0)
    student = KINDS[kind].build().eval()
    before = {name: t.clone() for name, t in student.state_dict().items()}
    graph = Graph(student)
    arguments = graph.arguments(KINDS[kind].draw(30, torch.Generator().manual_seed(1)))
    FORMATS["int8"].write(graph, arguments, tmp_path / "model.onnx")
    file = FORMATS["int8"].load(tmp_path / "model.onnx")(arguments)[0]
    with torch.no_grad():
        floats = graph(*arguments)[0]
        with in_8_bits(student) as roundings:
            for rounding in roundings:
                rounding.disable_fake_quant()
            assert torch.equal(graph(*arguments)[0], floats)
            for rounding in roundings:
                rounding.enable_fake_quant()
                rounding.disable_observer()
            rounded = graph(*arguments)[0]
    away = (file - floats).abs().mean()
    assert float(away) > 1e-4
    assert float((file - rounded).abs().mean()) < 0.01 * float(away)
    after = student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(graph(*arguments)[0], floats)


def test_weights_learn_through_the_rounding() -> None:
    """And go by their range as it is, also when they shrink."""
    torch.manual_seed(0)
    student = KINDS["small_cnn group"].build()
    x = torch.randn(4, 1, 8, 8)
    with in_8_bits(student):
        student(x).square().sum().backward()
        weight = student.main.parametrizations.weight.original
        assert bool((weight.grad != 0).any())
        with torch.no_grad():
            weight.mul_(0.01)
        student(x)
        steps = student.main.weight.detach() / (weight.detach().abs().amax(1, keepdim=True) / 64)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert float(steps.abs().max()) == pytest.approx(64)

"""The quadratic experiments rest where their formulas say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmkd.federated import FedNova


@pytest.fixture(scope="module")
def quadratics() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "quadratics.py"
    spec = importlib.util.spec_from_file_location("quadratics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_scaffolds_figure(quadratics: ModuleType) -> None:
    """K steps carry f1 from x to c + r (x - c), c = -G / 2, r = (1 - 2 eta)^K, and f2 to x + K eta G."""
    curves, rate = quadratics.scaffold(10.0, rounds=100), 0.1
    for steps in (2, 10):
        r = (1 - 2 * rate) ** steps
        assert curves[f"FedAvg, K = {steps}"][-1] == pytest.approx(-5 + steps * rate * 10 / (1 - r), rel=1e-6)
    assert curves["SGD"] == pytest.approx([(1 - rate) ** t for t in range(101)], abs=1e-12)
    assert curves["SCAFFOLD, K = 10"][-1] < 1e-12 < curves["SCAFFOLD, K = 2"][-1] < curves["SGD"][-1]


def test_fednovas_figure(quadratics: ModuleType) -> None:
    """FedNova rests where sum (1 - r_i) / tau_i (e_i - x) = 0, r_i = (1 - eta)^tau_i."""
    samples = torch.zeros(3, 3, 2, dtype=torch.float64)
    samples[:, 0], samples[:, 1] = 1.0, torch.tensor([[1.0, 0], [0, 1], [-1, 2]])
    tau = torch.tensor([1.0, 5, 9], dtype=torch.float64)
    work = {f"q/{i}": int(n) for i, n in enumerate(tau)}
    start = torch.zeros(2, dtype=torch.float64)
    found = quadratics.distances(samples, start, FedNova(), work, [0.1] * 80)
    pull = ((1 - 0.9**tau) / tau)[:, None]
    rest = (pull * samples[:, 1]).sum(0) / pull.sum()
    assert found[-1] == pytest.approx(float((rest - samples[:, 1].mean(0)).norm()), rel=1e-8)

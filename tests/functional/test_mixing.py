"""Mixing matrices: laws of each, closed-form spectra, and what mixing does to a tree, bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmkd.functional.graph import Graph
from mmkd.functional.mixing import (
    contraction,
    metropolis_mixing,
    metropolis_weights,
    mix,
    neighbourhood_average,
    spectral_gap,
    without,
)
from mmkd.functional.random import generator


def graph(size: int, seed: int, *, directed: bool = False) -> Tensor:
    heard = torch.rand(size, size, generator=generator(seed, "graph")) < 0.4
    heard = heard if directed else heard.triu(1) | heard.triu(1).T
    return heard.fill_diagonal_(False)


def complete(size: int) -> Tensor:
    return ~torch.eye(size, dtype=torch.bool)


def ring(size: int) -> Tensor:
    step = torch.eye(size, dtype=torch.bool).roll(1, 0)
    return (step | step.T) & complete(size)


# --- matrices --------------------------------------------------------------------------------------


def test_neighbourhood_average_by_hand():
    heard = torch.tensor([[False, True, False], [False, False, True], [False, False, False]])
    matrix = neighbourhood_average(heard, torch.tensor([1.0, 3.0, 6.0]))
    assert matrix.tolist() == [[1 / 4, 3 / 4, 0], [0, 3 / 9, 6 / 9], [0, 0, 1]]


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 12), seed=st.integers(0, 1000))
def test_neighbourhood_average_is_stochastic_on_the_graph(size, seed):
    heard = graph(size, seed, directed=True)
    matrix = neighbourhood_average(heard, torch.rand(size, generator=generator(seed)) + 0.1)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
    assert torch.equal(matrix > 0, heard | torch.eye(size, dtype=torch.bool))


def test_neighbourhood_average_of_the_complete_graph_is_fedavg():
    samples = torch.tensor([10.0, 30.0, 60.0])
    matrix = neighbourhood_average(complete(3), samples)
    assert (matrix == matrix[0]).all()
    torch.testing.assert_close(matrix[0], torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64))


def test_a_neighbourhood_that_weighs_nothing_keeps_itself():
    matrix = neighbourhood_average(ring(4), torch.tensor([0.0, 0, 0, 1]))
    assert matrix[1].tolist() == [0, 1, 0, 0]
    assert matrix[0].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("weight", [-1.0, torch.nan, torch.inf])
def test_weights_without_meaning_are_refused(weight):
    with pytest.raises(ValueError, match="finite and not negative"):
        neighbourhood_average(complete(2), torch.tensor([1.0, weight]))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 12), seed=st.integers(0, 1000))
def test_metropolis_is_symmetric_and_doubly_stochastic(size, seed):
    heard = graph(size, seed)
    matrix = metropolis_weights(heard)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))
    assert torch.equal((matrix > 1e-12) | torch.eye(size, dtype=torch.bool), heard | torch.eye(size).bool())
    assert (matrix.diagonal() > 0).all()


def test_metropolis_by_hand():
    """A path of three: degrees 1, 2, 1, so both edges weigh 1/3."""
    heard = torch.tensor([[False, True, False], [True, False, True], [False, True, False]])
    expected = torch.tensor([[2, 1, 0], [1, 1, 1], [0, 1, 2]], dtype=torch.float64) / 3
    torch.testing.assert_close(metropolis_weights(heard), expected)


def test_metropolis_refuses_a_directed_graph():
    with pytest.raises(ValueError, match="undirected"):
        metropolis_weights(torch.eye(4, dtype=torch.bool).roll(1, 0))


@pytest.mark.parametrize("size", [3, 4, 7, 16])
def test_contraction_of_a_ring(size):
    """A circulant of thirds has eigenvalues 1/3 + 2/3 cos(2 pi k / n), k = 0 being the mean."""
    spectrum = [1 / 3 + 2 / 3 * math.cos(2 * math.pi * k / size) for k in range(1, size)]
    expected = max(map(abs, spectrum))
    assert math.isclose(contraction(metropolis_weights(ring(size))), expected, abs_tol=1e-10)
    assert math.isclose(spectral_gap(metropolis_weights(ring(size))), 1 - expected, abs_tol=1e-10)


def test_contraction_looks_at_both_ends_of_the_spectrum():
    """Two peers that swap have eigenvalues 1 and -1: they never agree."""
    assert math.isclose(contraction(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), 1.0)


def test_contraction_is_of_the_larger_end():
    """Three peers that hear three others have eigenvalues 1, 1/4 (of differences on one side) and -1/2."""
    side = torch.arange(6) < 3
    matrix = metropolis_weights(side[:, None] != side)
    assert math.isclose(contraction(matrix), 0.5)
    assert math.isclose(contraction((matrix + torch.eye(6)) / 2), 0.625)  # halfway to 1: 5/8 and 1/4


def test_contraction_of_complete_disconnected_and_single_graphs():
    assert contraction(metropolis_weights(complete(9))) < 1e-12
    assert math.isclose(contraction(torch.eye(4)), 1.0)
    assert contraction(torch.ones(1, 1)) == 0


def test_contraction_bounds_disagreement():
    matrix = metropolis_weights(ring(8))
    x = torch.randn(8, 5, generator=generator(1), dtype=torch.float64)
    spread = (x - x.mean(0)).norm()
    for _ in range(10):
        x = mix({"x": x}, matrix)["x"]
        assert (x - x.mean(0)).norm() <= contraction(matrix) * spread + 1e-12
        spread = (x - x.mean(0)).norm()


@pytest.mark.parametrize("matrix", [[[0.5, 0.5], [0.1, 0.9]], [[0.5, 0.0], [0.0, 0.5]]])
def test_contraction_of_other_matrices_is_refused(matrix):
    with pytest.raises(ValueError, match="symmetric"):
        contraction(torch.tensor(matrix))


# --- mixing ----------------------------------------------------------------------------------------


def tree(size: int, seed: int = 0) -> dict[str, Tensor]:
    g = generator(seed, "tree")
    return {
        "weight": torch.randn(size, 3, 37, generator=g),
        "scalar": torch.randn(size, generator=g, dtype=torch.float64),
        "half": torch.randn(size, 5, generator=g).half(),
        "batches": torch.arange(size),
    }


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 9), seed=st.integers(0, 1000))
def test_mix_is_the_product(size, seed):
    matrix = neighbourhood_average(graph(size, seed, directed=True), torch.ones(size))
    leaves = tree(size, seed)
    mixed = mix(leaves, matrix)
    for name, tolerance in {"weight": 1e-5, "scalar": 1e-12, "half": 2e-3}.items():
        expected = torch.einsum("kj,j...->k...", matrix, leaves[name].double())
        assert mixed[name].dtype == leaves[name].dtype
        torch.testing.assert_close(mixed[name].double(), expected, atol=tolerance, rtol=tolerance)
    assert mixed["batches"] is leaves["batches"]


def test_mix_keeps_the_mean_when_doubly_stochastic():
    x = torch.randn(6, 40, generator=generator(2), dtype=torch.float64)
    mixed = mix({"x": x}, metropolis_weights(ring(6)))["x"]
    torch.testing.assert_close(mixed.mean(0), x.mean(0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_single_one_copies_bits(seed):
    g = generator(seed)
    matrix = torch.eye(5, dtype=torch.float64)[torch.randint(5, (5,), generator=g)]
    matrix[0] = 0.2
    x = torch.randn(5, 21, generator=g)
    x[::2, 0] = -0.0
    mixed = mix({"x": x}, matrix)["x"]
    assert torch.equal(mixed[1:].view(torch.int32), x[matrix[1:].argmax(1)].view(torch.int32))


def test_equal_rows_give_equal_bits():
    matrix = torch.rand(1, 7, generator=generator(0), dtype=torch.float64).expand(7, -1).clone()
    matrix[3] = torch.eye(7)[3]
    mixed = mix(tree(7), matrix)
    for name in ("weight", "half"):
        rest = mixed[name][[0, 1, 2, 4, 5, 6]]
        assert (rest == rest[0]).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(2, 40))
def test_bits_do_not_depend_on_company(seed, size):
    """One host equals many: a row alone, with only those that it hears, has the same bits."""
    matrix = neighbourhood_average(
        graph(size, seed, directed=True), torch.rand(size, generator=generator(seed))
    )
    x = torch.randn(size, 53, generator=generator(seed, "x"))
    together = mix({"x": x}, matrix)["x"]
    for k in range(size):
        heard = matrix[k].nonzero().flatten()
        assert torch.equal(mix({"x": x[heard]}, matrix[k : k + 1, heard])["x"][0], together[k])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_with_those_who_hear_it(poison):
    x = torch.ones(6, 4)
    x[0] = poison
    path = ring(6)
    path[0, 5] = path[5, 0] = False
    mixed = mix({"x": x}, metropolis_weights(path))["x"]
    assert not mixed[:2].isfinite().any()
    torch.testing.assert_close(mixed[2:], torch.ones(4, 4))


def test_half_precision_is_added_up_in_single():
    """300 times 1/300 is 1; added up in half precision, near 1 each step would be off by some 10 %."""
    x = torch.ones(300, 2, dtype=torch.float16)
    assert (mix({"x": x}, torch.full((1, 300), 1 / 300))["x"] == 1).all()


def test_mixing_carries_no_graph_and_changes_no_input():
    x = torch.nn.Parameter(torch.randn(4, 3, generator=generator(0)))
    before = x.detach().clone()
    assert not mix({"x": x}, metropolis_weights(ring(4)))["x"].requires_grad
    assert torch.equal(x, before)


def test_a_hub_mixes_to_fewer_rows():
    x = torch.tensor([[1.0], [2.0], [6.0]])
    assert mix({"x": x}, torch.full((1, 3), 1 / 3))["x"].tolist() == [[3.0]]


# --- who is absent ---------------------------------------------------------------------------------


def test_the_weight_of_who_is_absent_goes_to_the_others_in_proportion():
    """Of 1/2, 1/3, 1/6 without the first: 2/3 and 1/3; and equal shares where the others had none."""
    absent = torch.tensor([True, False, False])
    for row, left in (([1 / 2, 1 / 3, 1 / 6], [0, 2 / 3, 1 / 3]), ([1.0, 0, 0], [0, 1 / 2, 1 / 2])):
        found = without(torch.tensor([row], dtype=torch.float64), absent)
        torch.testing.assert_close(found, torch.tensor([left], dtype=torch.float64))


def test_who_is_absent_is_weighed_by_itself_alone():
    """On a ring each weighs itself and two others by 1/3; the neighbours of the absent weigh two by 1/2."""
    rows, absent = Graph.of(ring(6)), torch.arange(6) == 2
    mixing = without(metropolis_mixing(rows), absent)
    dense = mixing.dense(6)
    torch.testing.assert_close(dense.sum(1), torch.ones(6, dtype=torch.float64))
    assert dense[:, 2].nonzero().flatten().tolist() == [2]
    torch.testing.assert_close(dense[1, :2], torch.full((2,), 1 / 2, dtype=torch.float64))
    torch.testing.assert_close(without(metropolis_mixing(rows).dense(6), absent), dense)
    alone = without(metropolis_mixing(rows), torch.arange(6) != 9).dense(6)
    torch.testing.assert_close(alone, torch.eye(6, dtype=torch.float64))


def test_a_graph_on_which_some_are_not_heard():
    heard = Graph.of(ring(5)).hearing(torch.tensor([0, 1, 3])).dense()
    expected = ring(5)
    expected[:, [2, 4]] = False
    assert torch.equal(heard, expected)

"""Means of values and of log-odds, and distances from them, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.knowledge import Heard, SharedTags, SharedValues
from mmkd.knowledge.shared_values import MeanStatement
from mmkd.testing import check_knowledge
from mmkd.types import Tags, Target, Values


@pytest.mark.parametrize("knowledge", [SharedValues(), SharedTags(), SharedValues(samples="all", teachers=1)])
def test_the_contract(knowledge: MeanStatement) -> None:
    check_knowledge(knowledge)


@pytest.mark.parametrize(("include_self", "mean"), [(True, 3.0), (False, 4.0)])
def test_the_mean_of_those_heard(include_self: bool, mean: float) -> None:
    """The first of three, who say 1, 4 and 9, hears the second, who says something, and the last, who does not.

    With its own word that is the mean of 1, 4 where nobody is silent: of 2 and 4 it is 3.
    """
    said = torch.tensor([2.0, 4.0, 9.0]).view(3, 1, 1)
    heard = {"values": Heard(said, torch.tensor([True, True, False])[:, None])}
    hears, own = torch.tensor([[False, True, True]]), torch.tensor([[True, False, False]])
    target = SharedValues(include_self=include_self).listen(heard, hears, own)["values"]
    assert target.values.item() == mean
    assert target.weight.item() == 1


def test_distances() -> None:
    """Squares are averaged over values and samples; tags by the divergence of each as a yes or no."""
    target = Target(torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[1.0, 0.0]]))
    said = torch.tensor([[[1.0, 5.0], [7.0, 7.0]]])
    assert SharedValues().loss(Values(said), {"values": target}).tolist() == [9 / 2]
    p, q = target.values[0, 0].sigmoid(), said[0, 0].sigmoid()
    divergence = F.binary_cross_entropy(q, p) - F.binary_cross_entropy(p, p)
    torch.testing.assert_close(SharedTags().loss(Tags(said), {"tags": target}), divergence[None])
    assert SharedTags().loss(Tags(target.values), {"tags": target}).item() == pytest.approx(0, abs=1e-7)

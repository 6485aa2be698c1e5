"""When a device asks somebody else: policies, from its own logits or from what validation samples taught."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.functional import confidence


class Requests(NamedTuple):
    """Samples that devices may ask about."""

    logits: Float[Tensor, "requests classes"]  # of the device, divided by its temperature
    right: Bool[Tensor, " requests"]  # whether the device is
    answered: Bool[Tensor, " requests"]  # whether those who may be asked are
    cost: Float[Tensor, " requests"]  # of asking
    device: list[int]  # whose they are, by number

    @property
    def gain(self) -> Float[Tensor, " requests"]:
        """1 where asking mends, -1 where it spoils, 0 where it changes nothing."""
        return self.answered.double() - self.right.double()


class Policy(ABC):
    """Says how much a device wants to ask about each of its samples."""

    def fit(self, requests: Requests) -> None:
        """Learn from validation samples, of which it is known who is right; nothing, unless overridden."""
        del requests

    @abstractmethod
    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """How much each sample is to be asked about; the greatest comes first."""


class MaxProbability(Policy):
    """The less likely the likeliest class, the sooner (with a temperature: calibrated confidence)."""

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """1 less the greatest probability."""
        return 1 - confidence.max_probability(requests.logits)


class Margin(Policy):
    """The closer the second class is to the first, the sooner."""

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """1 less the difference of the two greatest probabilities."""
        return 1 - confidence.margin(requests.logits)


class Entropy(Policy):
    """The more classes share the probability, the sooner."""

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """1 less exp(-entropy)."""
        return 1 - confidence.entropy(requests.logits)


class Learned(Policy):
    """Learned deferral (Madras et al. 2018): asks where an answer is likelier to be right than the device.

    Two logistic regressions on validation samples, of whether asking mends and of whether it spoils, from the
    sorted probabilities, margin, entropy and the class that the device names.
    """

    def __init__(self) -> None:
        self._mends: Any = None
        self._spoils: Any = None

    def fit(self, requests: Requests) -> None:
        """Learn from samples of which it is known who is right."""
        seen, gain = _features(requests.logits), requests.gain.numpy()
        self._mends, self._spoils = _regression(seen, gain > 0), _regression(seen, gain < 0)

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """Expected gain of asking."""
        if self._mends is None:
            raise RuntimeError("fit comes first")
        seen = _features(requests.logits)
        return torch.from_numpy(self._mends(seen) - self._spoils(seen))


class CostAware(Policy):
    """Another policy's wants for each unit of cost: cheap samples of unsure devices come first.

    Args:
        policy: whose wants are divided by costs.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def fit(self, requests: Requests) -> None:
        """As the other policy does."""
        self.policy.fit(requests)

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """The other's wants, divided by costs where they are above 0."""
        wants = self.policy.wants(requests).double()
        return torch.where(wants > 0, wants / requests.cost, wants)


class Random(Policy):
    """Asks about any sample: a bound from below."""

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """All alike, of which a curve is the mean over all orders."""
        return torch.zeros(len(requests.right))


class Oracle(Policy):
    """Knows who is right, and what asking costs: a bound from above."""

    def wants(self, requests: Requests) -> Float[Tensor, " requests"]:
        """The gain for each unit of cost: no other order has more area under its curve."""
        return requests.gain / requests.cost


def _features(logits: Float[Tensor, "requests classes"]) -> np.ndarray:
    p = logits.double().softmax(-1)
    best = p.sort(-1, descending=True).values[:, :3]
    named = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    more = [confidence.margin(logits.double()), confidence.entropy(logits.double())]
    found: np.ndarray = torch.cat([best, torch.stack(more, 1), named], 1).numpy()
    return found


def _regression(seen: np.ndarray, what: np.ndarray) -> Any:
    """The chance of something, from what was seen; the same for all where it always or never was so."""
    if what.all() or not what.any():
        chance = float(what.all())
        return lambda features: np.full(len(features), chance)
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(seen, what)
    return lambda features: model.predict_proba(features)[:, 1]


POLICIES: dict[str, Callable[[], Policy]] = {
    "max probability": MaxProbability,
    "margin": Margin,
    "entropy": Entropy,
    "learned": Learned,
    "cost-aware": lambda: CostAware(MaxProbability()),
    "random": Random,
    "oracle": Oracle,
}
"""Those that are compared, made anew for each comparison, since some learn."""

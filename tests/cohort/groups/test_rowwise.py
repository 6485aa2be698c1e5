"""What cannot be vectorised is told apart by its cause: one row alone goes through, and many do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.reason import VectorizeError
from mmkd.cohort.groups.rowwise import rowwise
from mmkd.knowledge import SharedLogits
from mmkd.types import ConfigError
from tests.tiny import CLASSES, FEATURES, Eye, fit, schedule

ROWS = torch.randn(3, 4, FEATURES)


class Recurrent(Eye):
    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.memory = nn.LSTM(FEATURES, 16, batch_first=True)

    def embed(self, x: Tensor) -> Tensor:
        return self.memory(x[:, None])[0][:, 0]


class Spectral(Eye):
    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.net[0] = nn.utils.parametrizations.spectral_norm(self.net[0])


class Drawn(Eye):
    """NumPy knows nothing of vmap, and torch raises no RuntimeError."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x * float(x.detach().numpy().sum() > 0))


class Lazy(Eye):
    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.net[0] = nn.LazyLinear(16)


def cohort(kind: type[Eye], vectorize: Any = "always") -> Cohort:
    return Cohort({"eyes": Fleet(lambda n: kind(n), 2)}, CLASSES, vectorize=vectorize)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Recurrent, r"return self\.memory\(x\[:, None\]\)"),
        (Spectral, r"self\.net\(x\)"),
        (Drawn, r"numpy\(\)"),
    ],
)
def test_it_says_at_which_line_and_what_to_set(kind: type[Eye], line: str) -> None:
    callback = DecentralizedCallback(SharedLogits(), schedule=schedule())  # which asks for predictions first
    with pytest.raises(
        ConfigError, match=rf"of 'eyes' cannot be vectorised: .*{line}.*set model\.vectorize: never"
    ) as error:
        fit(cohort(kind), callback)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("vectorize", ["never", "always", "auto"])
def test_a_lazy_layer_is_refused(vectorize: Any) -> None:
    with pytest.raises(ConfigError, match=r"'net\.0\.weight' in the student of 'eyes/0' is of a lazy layer"):
        cohort(Lazy, vectorize)


def test_a_mistake_of_the_students_own_stays_what_it_is() -> None:
    def wrong(x: Tensor) -> Tensor:
        return x @ x  # [4, 8] times [4, 8]

    with pytest.raises(RuntimeError, match=r"size mismatch|cannot be multiplied") as error:
        rowwise(wrong, "eyes", ROWS)
    assert not isinstance(error.value, ConfigError)
    with pytest.raises(KeyError, match="'view'"):
        rowwise(lambda x: x["view"], "eyes", {"other": ROWS})
    with pytest.raises(ConfigError, match="of the student's own"):
        rowwise(refuse, "eyes", ROWS)
    with pytest.raises(VectorizeError, match="of 'eyes' cannot be vectorised: vmap"):
        rowwise(lambda x: x * x.sum().item(), "eyes", ROWS)


def refuse(x: Tensor) -> Tensor:
    raise ConfigError("of the student's own")


def test_memory_that_is_not_to_be_had_is_no_reason() -> None:
    def greedy(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        rowwise(greedy, "eyes", ROWS)


def attend(x: Tensor, w: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, w, w)


@pytest.mark.parametrize(
    ("operation", "x", "w"),
    [
        (F.conv1d, (3, 2, 4, 9), (3, 5, 4, 3)),
        (F.conv2d, (3, 2, 4, 6, 6), (3, 5, 4, 3, 3)),
        (F.conv_transpose2d, (3, 2, 4, 6, 6), (3, 4, 5, 3, 3)),
        (attend, (3, 2, 4, 6), (3, 2, 4, 6)),
    ],
)
def test_half_precision_reaches_what_autocast_does_not(operation: Any, x: Any, w: Any) -> None:
    """Behind a layer that autocast has made a half-precision one; what agrees stays as it was."""
    reads, weights = torch.randn(x), torch.randn(w)
    exact = rowwise(operation, "eyes", reads, weights)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rowwise(operation, "eyes", reads.bfloat16(), weights)
        alike, plain = rowwise(operation, "eyes", reads, weights), vmap(operation)(reads, weights)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(alike, plain)
    # Eight bits of mantissa in what is read, the weights and the sum of at most 36 products.
    torch.testing.assert_close(mixed.float(), exact, rtol=0.05, atol=0.1 * float(exact.abs().max()))

"""Learning rates that follow the round: those of all peers alike, and the hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAdam, FedAvg
from mmkd.rates import Cosine, Decay, Rate
from mmkd.students import WarmupCosine
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, Save, fit, schedule, sgd


def test_rates_are_functions_of_the_round() -> None:
    """Decay in stairs; a cosine from 1 to its floor, which it reaches with the last round."""
    assert [Decay(0.5, 2).factor(r) for r in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    cosine = Cosine(rounds=5, warmup=2, floor=0.1)
    assert [cosine.factor(r) for r in range(7)] == pytest.approx([1 / 3, 2 / 3, 1, 0.55, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cosine(3, 3), "no room for 3"),
        (lambda: Cosine(3, -1), "warmup must be at least 0"),
        (lambda: Cosine(3, floor=0.0), "floor must lie in"),
        (lambda: Decay(0.0), "gamma must lie in"),
        (lambda: Decay(1.1), "gamma must lie in"),
        (lambda: Decay(0.5, 0), "every must be at least 1"),
    ],
)
def test_rates_without_a_meaning_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


class Rates(Callback):
    """Rates of all peers at the end of each block of one tick."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_rates_follow_the_round_beside_scales_and_schedules(vectorize: Any, tmp_path: Path) -> None:
    """In round r they are 2^-r times those of the peer's own schedule; resumed in the middle of a round."""

    def run(*extra: Callback, **kwargs: Any) -> Cohort:
        decay = lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)  # noqa: E731  # short
        peers = {
            "cameras": Fleet(
                lambda n: Eye(n, drop=0.0, optimizer=sgd(1.0), scheduler=decay), 2, None, [1.0, 4.0]
            )
        }
        cohort = Cohort(peers, CLASSES, vectorize=vectorize)
        when = schedule(local_steps=2, block=1, rounds_per_epoch=3, rate=Decay(0.5))
        callback = DecentralizedCallback(None, FedAvg(optimizer_state="keep"), Star(), when)
        fit(cohort, callback, max_epochs=1, extra=extra, **kwargs)
        return cohort

    whole, part = Rates(), Rates()
    cohort = run(whole, Save(tmp_path / "run.ckpt", 3))
    # After tick t the schedule has halved t + 1 times, and the round's factor is that of t // 2.
    assert whole.seen == [[2.0 ** -(t + 1 + t // 2), 4 * 2.0 ** -(t + 1 + t // 2)] for t in range(6)]
    resumed = run(part, ckpt_path=tmp_path / "run.ckpt")
    assert part.seen == whole.seen[3:]
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in cohort.state_dict().items())


class Once(Rate):
    """One in round 0, and next to nothing afterwards."""

    def factor(self, round: int) -> float:
        return 1.0 if round == 0 else 1e-9


@pytest.mark.parametrize("make", [FedAvg, FedAdam])
def test_the_hub_follows_the_round(make: Any) -> None:
    """With a hub that moves in round 0 alone, all peers end where they were after it."""

    def ends(rounds: int, rate: Rate | None) -> Cohort:
        cohort = Cohort({"cameras": Fleet(lambda n: Eye(n, drop=0.0, optimizer=sgd(0.05)), 2)}, CLASSES)
        aggregation = make(server_rate=rate, buffers="local")
        when = schedule(local_steps=2, rounds_per_epoch=rounds)
        fit(cohort, DecentralizedCallback(None, aggregation, Star(), when), max_epochs=1)
        return cohort

    short, still, plain = ends(1, None), ends(3, Once()), ends(3, None)
    weights = [c.student("cameras/0").main.weight.detach() for c in (short, still, plain)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-6)
    assert float((weights[2] - weights[0]).abs().max()) > 1e-3


def test_a_students_schedule_can_be_named_whole() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=2.0)
    rates = WarmupCosine(optimizer, steps=4, warmup=1, floor=0.5)
    seen = []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen == pytest.approx([1.0, 2.0, 1.75, 1.25, 1.0, 1.0])

"""Links and budgets as they are written, by hand, and thresholds that devices hold to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmkd.edge.budgets import WAYS, Budget, Kept, budget, kept
from mmkd.edge.links import LINKS, Link, link, links
from mmkd.edge.policies import Requests
from mmkd.errors import ConfigError

PEERS = ["cameras/0", "cameras/1", "phones/0"]


def test_a_link_takes_its_trip_and_a_time_for_bytes() -> None:
    slow = link("100,50,2")
    assert slow == Link(100, 50, 2)
    assert slow.seconds(300, 25) == 2 + 3 + 0.5
    # A picture of 784 bytes: LoRa sends it in 784 * 8 / 5470 s, Wi-Fi in a ten-thousandth of that.
    assert LINKS["lora"].seconds(784, 0) == pytest.approx(1 + 784 * 8 / 5470)
    assert LINKS["wifi"].seconds(784, 0) == pytest.approx(0.02 + 784 * 8 / 65e6)
    took = [LINKS[name].seconds(2000, 40) for name in ("wifi", "4g", "lte-m", "nb-iot", "lora")]
    assert took == sorted(took)


def test_devices_have_links_by_their_names_and_the_last_counts() -> None:
    found = links(["wifi", "cameras/*=4g", "cameras/1=1,2,3"], PEERS)
    assert found == {"cameras/0": LINKS["4g"], "cameras/1": Link(1, 2, 3), "phones/0": LINKS["wifi"]}
    with pytest.raises(ConfigError, match="'phones/0' has no link: give one for all first"):
        links(["cameras/*=4g"], PEERS)
    with pytest.raises(ConfigError, match=r"--link camera/0=4g: .* did you mean cameras/0, "):
        links(["wifi", "camera/0=4g"], PEERS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wify", r"there is no link 'wify'; did you mean wifi\?; there are lora, nb-iot"),
        ("1,2", "there is no link '1,2'; there are lora"),
        ("0,1,1", "link '0,1,1': bytes a second are above 0"),
        ("1,1,-1", "seconds at least 0"),
        ("1,nan,1", "bytes a second are above 0"),
        ("inf,1,1", "bytes a second are above 0"),
    ],
)
def test_wrong_links_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        link(text)


def test_budgets_as_they_are_written() -> None:
    written = {"20%": ("requests", 0.2), "500B": ("bytes", 500), "1.5 kB": ("bytes", 1500),
               "30ms": ("seconds", 0.03), "2s": ("seconds", 2), "0": ("requests", 0), "0B": ("bytes", 0)}  # fmt: skip
    for text, (unit, amount) in written.items():
        assert budget(text) == Budget(text, unit, pytest.approx(amount))
    for text in ("20", "-1%", "nan%", "1e9B", "fast", "", "5 MB"):
        with pytest.raises(ConfigError, match=r"give a share of requests, or bytes or time a request: 20%"):
            budget(text)
    with pytest.raises(ConfigError, match="about 100% of their requests at most"):
        budget("101%")


def requests(p: Tensor, cost: Tensor, temperature: float = 1.0) -> Requests:
    """Of two devices in turn, which are never right where those who are asked always are."""
    size = len(p)
    logits = torch.stack([p, 1 - p], 1).double().log() * temperature
    nobody, everybody = torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    return Requests(logits, nobody, everybody, cost, [i % 2 for i in range(size)])


def found(text: str) -> dict[str, Kept]:
    """One device is as sure as 0.505, 0.515, ..., 0.995, the other always half as unsure; it pays ten times as much."""
    p = torch.linspace(0.505, 0.995, 50).double().repeat_interleave(2)
    p[1::2] = (1 + p[1::2]) / 2
    cost = torch.tensor([1.0, 10.0]).repeat(50).double()
    unit = budget(text).unit
    about = {unit: requests(p, torch.ones(100).double() if unit == "requests" else cost)}
    bare = {unit: requests(p, about[unit].cost, temperature=3.0)}
    splits = ({"val": about, "test": about}, {"val": bare, "test": about})
    return {one.way: one for one in kept(budget(text), *splits)}


def test_thresholds_keep_a_budget_of_requests() -> None:
    """One for all: the unsure device asks more. One a device: each asks about a fifth."""
    ways = found("20%")
    assert list(ways) == list(WAYS)
    for way in ("one for all", "one a device", "one price"):
        assert ways[way].spent == ways[way].asked == ways[way].accuracy == pytest.approx(0.2)
    one, other = ways["one for all"].thresholds
    assert one == other
    assert ways["one price"].thresholds == ways["one for all"].thresholds  # all cost the same
    assert ways["one for all"].away > 0.05
    assert ways["one a device"].away == pytest.approx(0, abs=1e-9)
    first, second = ways["one a device"].thresholds
    assert (first, second) == pytest.approx((0.605, 0.8025))  # the eleventh of each is not asked about
    # Logits thrice as great are surer than they ought to be; with test logits as they should be, too many ask.
    assert ways["without temperatures"].spent > 0.3


def test_thresholds_keep_a_budget_of_bytes_and_the_cheap_ask_first() -> None:
    ways = found("1.1B")
    for way in ("one for all", "one a device", "one price"):
        assert ways[way].spent <= 1.1
    cheap, dear = ways["one price"].thresholds
    # A price t: the first asks above t of 1 - p, the other above 10 t.
    assert 1 - dear == pytest.approx(10 * (1 - cheap))
    assert dear < ways["one for all"].thresholds[0] < cheap
    assert ways["one price"].asked > ways["one for all"].asked


def test_no_budget_asks_nobody_and_a_great_one_everybody() -> None:
    for text in ("0", "0B", "0ms"):
        for one in found(text).values():
            assert (one.thresholds, one.spent, one.asked, one.accuracy) == ([0, 0], 0, 0, 0)
    for way, one in found("1kB").items():
        assert (one.thresholds, one.asked, one.accuracy) == ([1, 1], 1, 1), way

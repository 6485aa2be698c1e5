"""Ledgers count edges, and add like integers."""

from pathlib import Path

from mmkd.ledger import EVERYBODY, FRAMING, JOINING, Entry, Ledger


def filled() -> Ledger:
    ledger = Ledger(["a", "b"])
    ledger.send(0, "a", "hub", "logits", 10, framing=3)
    ledger.send(0, "hub", "b", "logits", 20)
    ledger.send(1, "a", "b", "weights", 5)
    ledger.send(1, "a", "b", "weights", 7)
    ledger.compute("a", 2.0)
    return ledger


def test_totals_leave_framing_out() -> None:
    ledger = filled()
    assert ledger.total() == 10 + 20 + 5 + 7
    assert ledger.total("weights") == 12
    assert ledger.total(FRAMING) == 3
    assert ledger.bytes_per_peer() == 42 / 2
    assert ledger.flops_per_peer() == 1.0
    assert ledger.by_kind() == {
        "framing": {"up": 3},
        "logits": {"up": 10, "down": 20},
        "weights": {"peer": 12},
    }


def test_adds_like_a_number() -> None:
    one, other = filled(), Ledger(["c"])
    other.send(0, "c", "a", "logits", 1)
    zero = Ledger([])
    assert one + zero == zero + one == one
    assert one + other == other + one
    assert (one + one).total() == 2 * one.total()
    assert (one + other).flops == {"a": 2.0, "b": 0.0, "c": 0.0}


def test_state_comes_back() -> None:
    assert Ledger.from_state(filled().state_dict()) == filled()
    assert filled() != Ledger(["a", "b"])


def test_the_table_holds_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    filled().write(path)
    header, *rows = path.read_text().splitlines()
    assert header.split(",") == list(Entry._fields)
    assert sum(int(row.split(",")[-1]) for row in rows) == 42 + 3
    assert "1,a,b,peer,weights,12" in rows


def test_payloads_through_a_hub_are_edges_both_ways() -> None:
    """Every sender to one, one to every receiver, each payload with its own size."""
    ledger = Ledger(["a", "b"])
    ledger.count(3, "weights", ["a", "b"], ["hub"], None, [(10, 1), (20, 2)])
    ledger.count(3, "weights", ["hub"], ["b", "a"], None, [(7, 0)])
    assert ledger.total() == 10 + 20 + 7 + 7
    assert ledger.total(FRAMING) == 1 + 2
    assert list(ledger.entries()) == [
        Entry(3, "a", "hub", "up", FRAMING, 1),
        Entry(3, "a", "hub", "up", "weights", 10),
        Entry(3, "b", "hub", "up", FRAMING, 2),
        Entry(3, "b", "hub", "up", "weights", 20),
        Entry(3, "hub", "a", "down", "weights", 7),
        Entry(3, "hub", "b", "down", "weights", 7),
    ]
    assert ledger.total() == sum(entry.bytes for entry in ledger.entries() if entry.kind != FRAMING)


def test_what_joining_costs_is_apart() -> None:
    """In no total, and from a peer to everybody."""
    ledger = Ledger(["a", "b"])
    ledger.send(0, "a", "hub", "weights", 10)
    ledger.send(0, "a", EVERYBODY, JOINING, 7)
    assert (ledger.total(), ledger.total(JOINING), ledger.bytes_per_peer()) == (10, 7, 5)
    assert ledger.by_kind() == {"weights": {"up": 10}, "joining": {"peer": 7}}

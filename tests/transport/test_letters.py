"""Keys and slips of letters are read as strictly as they are written, and a mailbox keeps what is due."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mmkd.transport.access import rules
from mmkd.transport.introduction import Introduction, Particulars, different, hashed
from mmkd.transport.letters import Address, Exchange, Slip, address, key
from mmkd.transport.mailbox import OVERHEAD, Letter, Mailbox
from mmkd.transport.session import check_endpoints
from mmkd.transport.zenoh import ZenohTransport
from mmkd.types import ConfigError
from tests.transport.test_facts import FACTS


@pytest.mark.parametrize(
    "to",
    [
        Address(3, "cameras/0", "logits", "phones/1"),
        Address(0, "hub", "weights", "to/0"),
        Address(10**18 - 1, "to/0", "logits", "to/1"),
        Address(7, "hub/cameras/0", "weights", "a/0"),
    ],
)
def test_a_key_says_what_it_was_made_of(to: Address) -> None:
    assert address("study", key("study", to)) == to
    with pytest.raises(ValueError, match="no key of a letter"):
        address("another", key("study", to))


@pytest.mark.parametrize(
    "text",
    ["", "mmkd/study/3", "mmkd/study/3/a/to/b", "mmkd/study/x/a/0/logits/to/b", "mmkd/study/-1/a/0/logits/to/b",
     "mmkd/study/3/a/0/logits/to/", "mmkd/study/" + "9" * 19 + "/a/0/logits/to/b", "mmkd/study/\u0663/a/0/l/to/b"],
)  # fmt: skip
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no key of a letter"):
        address("study", text)


def test_a_slip_survives() -> None:
    for slip in (Slip("ab", 0, 0, 0, ()), Slip("ab", 5, 2, 3, ("hub", "ö/0"), "1f")):
        assert Slip.decode(slip.encode()) == slip


@pytest.mark.parametrize(
    "read",
    [{}, [], ["a", 0, 0, 1, []], ["a", 0, 1, 1, [], ""], ["a", -1, 0, 1, [], ""], ["a", 0, 0, 2**30, [], ""],
     ["a", True, 0, 1, [], ""], ["", 0, 0, 1, [], ""], [3, 0, 0, 1, [], ""], ["a", 0, 0, 1, [""], ""],
     ["a", 0, 0, 1, "b", ""], ["a", 0.0, 0, 1, [], ""], ["a", 0, 0, 1, [], 3], ["a", 0, 0, 1, [], "x" * 65]],
)  # fmt: skip
def test_other_slips_are_refused(read: Any) -> None:
    with pytest.raises(ValueError, match="slip"):
        Slip.decode(json.dumps(read).encode())


# --- the mailbox -----------------------------------------------------------------------------------

FIRST, SECOND, NEXT = Exchange("logits", 4, 0), Exchange("logits", 4, 1), Exchange("logits", 5, 0)


def letter(place: int = 0, of: int = 1, text: bytes = b"x") -> Letter:
    return Letter(text if of else b"", Slip("i", 0, place, of, ()), 4)


def box(room: int = 10**6) -> Mailbox:
    made = Mailbox(room)
    made.begin(4)
    return made


def test_letters_are_taken_in_the_order_in_which_they_were_sent_once_all_are_here() -> None:
    mail = box()
    assert mail.put("a", FIRST, letter(1, 2, b"two")) is None
    assert mail.wait(FIRST, ["a", "b"], 0.0) == {"a", "b"}
    assert mail.put("a", FIRST, letter(0, 2, b"one")) is None
    assert mail.put("b", FIRST, letter(of=0)) is None  # it has nothing to say
    assert mail.wait(FIRST, ["a", "b"], 0.0) == set()
    assert {p: [one.encoded for one in own] for p, own in mail.take(FIRST).items()} == {
        "a": [b"one", b"two"],
        "b": [b""],
    }


def test_of_a_process_that_has_not_said_all_nothing_is_taken() -> None:
    mail = box()
    mail.put("a", FIRST, letter(0, 2))
    assert mail.take(FIRST) == {}
    assert mail.put("a", FIRST, letter(1, 2)) == "late"


@pytest.mark.parametrize(
    ("exchange", "one", "reason"),
    [
        (Exchange("logits", 3, 0), letter(), "late"),
        (NEXT, letter(), None),
        (Exchange("logits", 6, 0), letter(), "early"),
        (FIRST, letter(0, 2), "repeated"),
        (FIRST, letter(1, 3), "count"),
        (FIRST, letter(1, 2), None),
    ],
)
def test_what_is_dropped_and_why(exchange: Exchange, one: Letter, reason: str | None) -> None:
    mail = box()
    mail.put("a", FIRST, letter(0, 2))
    assert mail.put("a", exchange, one) == reason
    assert mail.latest["a"] == max(4, exchange.round)


def test_it_holds_no_more_than_it_has_room_for_and_forgets_what_is_over() -> None:
    mail = box(2 * (OVERHEAD + 1))
    assert [mail.put(p, FIRST, letter()) for p in "abc"] == [None, None, "room"]
    mail.take(FIRST)
    assert [mail.put(p, NEXT, letter()) for p in "abc"] == [None, None, "room"]
    mail.begin(6)
    assert [mail.put(p, Exchange("logits", 6, 0), letter()) for p in "abc"] == [None, None, "room"]


def test_whoever_waits_wakes_as_the_last_letter_comes() -> None:
    mail = box()
    later = threading.Timer(0.05, lambda: mail.put("a", SECOND, letter()))
    later.start()
    begun = time.monotonic()
    assert mail.wait(SECOND, ["a"], 30.0) == set()
    assert time.monotonic() - begun < 10


# --- introductions ---------------------------------------------------------------------------------

TOLD = Introduction("a/0", "1f", True, "0.1", ("a/0", "a/1"), (3, 4), 5, {"logits": 7})


def test_introductions_and_particulars_survive() -> None:
    assert Introduction.decode(TOLD.encode()) == TOLD
    told = Particulars(hashed({"model.init": "shared", "n": None}), {"a/0": FACTS, "a/1": FACTS})
    assert Particulars.decode(told.encode()) == told


@pytest.mark.parametrize(
    "change",
    [{"process": ""}, {"process": "b/0"}, {"peers": ["a/0", "a/0"]}, {"hosts": 1}, {"saved": [-2]}, {"saved": 3},
     {"round": 1.5}, {"round": 2**60}, {"sent": {"logits": "many"}}, {"sent": []}, {"version": None}],
)  # fmt: skip
def test_other_introductions_are_refused(change: dict[str, Any]) -> None:
    fields = {**TOLD._asdict(), "peers": list(TOLD.peers), "saved": list(TOLD.saved), **change}
    with pytest.raises(ValueError, match="introduction"):
        Introduction.decode(json.dumps(list(fields.values())).encode())


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_particulars_that_are_cut_are_refused(cut: int) -> None:
    whole = Particulars({}, {"a/0": FACTS}).encode()
    with pytest.raises(ValueError):  # noqa: PT011  # what is wrong depends on where it is cut
        Particulars.decode(whole[:-cut])


def test_settings_that_differ_are_named_and_not_told() -> None:
    one, two = hashed({"a": 1, "b": 2, "c": 3}), hashed({"a": 1, "b": "2", "d": 4})
    assert different(one, two) == ["b"]
    assert "2" not in two.values()


# --- who may connect, and do what ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "secured", "open_", "message"),
    [
        ("tcp/10.0.0.1:7447", False, False, "whoever reaches tcp/10.0.0.1:7447 could take part"),
        ("tcp/0.0.0.0:7447", False, False, "whoever reaches"),
        ("tcp/example.org:7447", False, False, "whoever reaches"),
        ("tls/10.0.0.1:7447", False, True, "do not fit"),
        ("tcp/127.0.0.1:7447", True, False, "do not fit"),
        ("127.0.0.1:7447", False, False, "is no endpoint"),
        ("tcp/127.0.0.1:port", False, False, "is no endpoint"),
        ("tcp/127.0.0.1:70000", False, False, "is no endpoint"),
    ],
)
def test_endpoints_that_are_refused(listen: str, secured: bool, open_: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_endpoints([listen], [], secured=secured, open=open_)


@pytest.mark.parametrize(
    ("listen", "secured", "open_"),
    [("tcp/127.0.0.1:1", False, False), ("tcp/[::1]:1", False, False), ("tcp/localhost:1", False, False),
     ("tls/10.0.0.1:1", True, False), ("tcp/10.0.0.1:1", False, True)],
)  # fmt: skip
def test_endpoints_that_are_not(listen: str, secured: bool, open_: bool) -> None:
    check_endpoints([listen], [], secured=secured, open=open_)


def test_a_certificate_binds_what_its_process_says_and_hears() -> None:
    found = rules({"a/0": ["a/0", "hub"], "b/0": ["b/0", "b/1"]})
    by_id = {rule["id"]: rule["key_exprs"] for rule in found["rules"]}
    assert found["default_permission"] == "deny"
    assert by_id["send a/0"] == [
        "mmkd/*/*/a/0/**",
        "mmkd/*/*/*/a/0/**",
        "mmkd/*/*/hub/**",
        "mmkd/*/*/*/hub/**",
    ]
    assert by_id["hear b/0"] == ["mmkd/*/*/**/to/b/0"]
    assert all("a/0" not in text for rule in ("send b/0", "hear b/0", "tell b/0") for text in by_id[rule])
    assert [policy["subjects"] for policy in found["policies"]] == [["a/0"], ["b/0"]]


# --- where all go on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "after"),
    [
        ([(), ()], None),
        ([(0,), ()], None),  # killed before it could save its first round
        ([(0,), (0,)], 0),
        ([(0, 1), (0,)], 0),
        ([(3, 4), (4, 5), (3, 4)], 4),
        ([(3, 4), (3, 4)], 4),
        ([(3, 4), (5, 6)], "a: 3 and 4; b: 5 and 6"),
        ([(3, 4), ()], "a: 3 and 4; b: none"),
        ([(0, 1), ()], "a: 0 and 1; b: none"),
    ],
)
def test_all_go_on_after_the_newest_round_that_all_have_saved(
    saved: list[tuple[int, ...]], after: int | str | None
) -> None:
    names = "abc"[: len(saved)]
    own, *others = (
        Introduction(n, n, False, "0", (n,), rounds) for n, rounds in zip(names, saved, strict=True)
    )
    transport = ZenohTransport("test")
    transport._own = own
    transport._company = SimpleNamespace(others={each.process: each for each in others})  # type: ignore[assignment]
    if isinstance(after, str):
        with pytest.raises(ConfigError, match=after):
            transport._agreed()
    else:
        assert transport._agreed() == after

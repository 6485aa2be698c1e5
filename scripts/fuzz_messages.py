"""Mutants of real messages: each must be refused for a reason, or say what was expected of it.

    .venv/bin/python scripts/fuzz_messages.py --mutants 100000 --seed 0

Messages of several kinds (statements, answers of a hub, weights, compressed weights, slices) lose or gain
bytes, get other headers, senders, kinds, rounds, names, shapes, types and values, or come twice; each goes
through decoding and through the receiver. Prints what came of them. The status is 1 if one raised anything,
took longer than its time, took memory, or was taken although its sender, kind, round, names, shapes or types
differ from what was expected, or its values mean nothing. Other numbers of the right shape cannot be told
from true ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmkd.coordination.arrivals import Expected, Rows
from mmkd.coordination.delivery import LOG, Delivery
from mmkd.coordination.expected import ExpectedStatements, ExpectedTree
from mmkd.encoding import EightBits, Floats, Quantise, TopClasses, TopK, Wire
from mmkd.encoding.messages import encode
from mmkd.encoding.samples import pack
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Message, Transport
from mmkd.types import Payload

SAMPLES, CLASSES, ROUND = 9, 4, 3
PEERS = ("a/0", "a/1", "b/0")
WEIGHT = "main.weight"
"""What an answer may say or not."""
CPU = torch.device("cpu")
LIMIT = 2.0
"""Seconds that one message may take."""
MEMORY = 2**28
"""Bytes by which the process may grow."""


class TooLong(BaseException):
    """The time limit is over."""


class Handed(Transport):
    """Hands over messages that it was given."""

    messages: tuple[Message, ...] = ()

    def deliver(self, mail: Mail) -> Mail:
        """The mail, and these messages."""
        return mail._replace(messages=self.messages)


class Case(NamedTuple):
    """A real message and what its receiver expects."""

    payload: Payload
    encoded: bytes
    rows: Rows  # what the receiver takes of it
    expected: Expected


def case(kind: str, tensors: dict[str, Tensor], expected: Expected, logits: tuple[str, ...] = ()) -> Case:
    """A message of the first peer, or of the hub."""
    payload = Payload("hub" if expected.apart else PEERS[0], kind, ROUND, tensors, logits)
    return Case(payload, encode(payload), expected.rows(payload, [PEERS[1]]), expected)


def statement(wire: Wire, *, logits: bool, some: bool = False, answer: bool = False) -> Case:
    """A statement of nine samples, or of some of them; or a hub's answer, which weighs them."""
    expected = ExpectedStatements(
        ["hub"] if answer else PEERS, CPU, wire, {"main": (CLASSES, logits)}, CLASSES, SAMPLES, answers=answer
    )
    encoded = wire.encode(torch.randn(SAMPLES, CLASSES), logits=logits)
    tensors = {"main" + part: tensor for part, tensor in encoded.items()}
    if answer:
        tensors[WEIGHT] = torch.ones(SAMPLES).half()
    if some:
        tensors = pack(tensors, torch.arange(SAMPLES) % 2 == 0)
    return case("logits", tensors, expected, ("main",) if logits else ())


def cases() -> list[Case]:
    """A message of each kind."""
    tree = {"w": torch.randn(1, 3, 2), "b": torch.randn(1, 3), "mean": torch.randn(1, 5)}
    own = {n: leaf[0] for n, leaf in tree.items()}
    forms = {n: (leaf.shape, leaf.dtype) for n, leaf in own.items()}
    half = {n: (torch.Size([-(-size // 2) for size in shape]), dtype) for n, (shape, dtype) in forms.items()}
    slices = {n: torch.randn(shape) for n, (shape, _) in half.items()}
    found = [
        statement(Floats(), logits=True),
        statement(Floats(), logits=True, some=True),
        statement(Floats("float16"), logits=False),
        statement(EightBits(), logits=False, some=True),
        statement(TopClasses(2), logits=True),
        statement(Floats(), logits=True, answer=True),
        case("weights", own, ExpectedTree(PEERS, CPU, lambda *_: forms)),
        case("weights", slices, ExpectedTree(PEERS, CPU, lambda *_: half)),
        case("controls", own, ExpectedTree(["hub"], CPU, lambda *_: forms, apart=True)),
    ]
    for compression in (TopK(0.5), Quantise(8)):
        sent = {n: leaf[0] for n, leaf in compression.encode(tree, [("fuzz",)]).items()}
        shapes = {n: (leaf.shape, leaf.dtype) for n, leaf in sent.items()}
        expected = ExpectedTree(PEERS, CPU, lambda *_, shapes=shapes: shapes, compression, tree)
        found.append(case("weights", sent, expected))
    return found


# --- mutants ---------------------------------------------------------------------------------------


def flipped(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """One to eight bits are others."""
    message = bytearray(one.encoded)
    for _ in range(dice.randint(1, 8)):
        message[dice.randrange(len(message))] ^= 1 << dice.randrange(8)
    return [bytes(message)]


def cut(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """Bytes are missing at the end or within, or there are more."""
    message, at = one.encoded, dice.randrange(len(one.encoded))
    end = min(len(message), at + dice.randint(1, 16))
    return [dice.choice([message[:at], message[:at] + message[end:], message + message[at:end]])]


def spliced(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """The header of one message before the tensors of another."""
    other = dice.choice(others).encoded
    return [one.encoded[: 8 + length(one.encoded)] + other[8 + length(other) :]]


def length(message: bytes) -> int:
    """Bytes of a header."""
    return int.from_bytes(message[:8], "little")


VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2**31, 2**63, 1.5, "", "F64", "U8", "I64", "x", None, True, [], [0], {}, [1] * 70, "-1", "03",
    "4", "hub", "b/0", "weights", "logits", '["main"]', "[]", [[]], "NaN", "é", "1" * 5000, 10**40,
)  # fmt: skip
"""What takes the place of something in a header."""


def rewritten(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """One place of the header says something else, is missing, or is there twice."""
    text = one.encoded[8 : 8 + length(one.encoded)]
    header = json.loads(text)
    table = dice.choice([header, *header.values()])
    key = dice.choice(list(table))
    what = dice.randrange(4)
    if what == 0:
        del table[key]
    elif what == 1:
        table[dice.choice(["x", "spoken", "main", "logits", "w"])] = table[key]
    elif isinstance(table[key], list) and table[key] and what == 2:
        table[key][dice.randrange(len(table[key]))] = dice.choice(VALUES)
    else:
        table[key] = dice.choice(VALUES)
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    if dice.random() < 0.05:
        written = written[:-1] + "," + written[1:]
    new = written.encode()
    new += b" " * (-len(new) % 8)
    return [len(new).to_bytes(8, "little") + new + one.encoded[8 + length(one.encoded) :]]


def retold(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """A well-formed message of another sender, kind, round, name, shape, type or values, or nothing of it."""
    payload, tensors = one.payload, dict(one.payload.tensors)
    name = dice.choice(list(tensors))
    tensor = tensors[name].clone()
    what = dice.randrange(12)
    if what == 0:
        payload = payload._replace(sender=dice.choice([*PEERS, "hub", "c/0", "a/0 ", "é", "x" * 300]))
    elif what == 1:
        payload = payload._replace(kind=dice.choice(["weights", "logits", "controls", "x"]))
    elif what == 2:
        payload = payload._replace(round=dice.choice([-1, 0, ROUND - 1, ROUND, ROUND + 1, 10**17, 10**19]))
    elif what == 3:
        tensors[dice.choice(["x", "main", "main.step", "spoken", "b", name + "."])] = tensors.pop(name)
    elif what == 4:
        del tensors[name]
    elif what == 5:
        shape = list(tensor.shape)
        if shape:
            shape[dice.randrange(len(shape))] = dice.choice([0, 1, 2, 5, 17])
        tensors[name] = torch.zeros(dice.choice([shape, [1, *shape], [1] * 9]), dtype=tensor.dtype)
    elif what == 6:
        kinds = (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.uint8,
            torch.bool,
        )
        tensors[name] = tensor.to(dice.choice(kinds))
    elif what == 7:
        payload = payload._replace(logits=dice.choice([(), ("main",), ("w",), ("main", "main"), ("x",)]))
    elif tensor.numel():
        at = dice.randrange(tensor.numel())
        odd = (torch.nan, torch.inf, -torch.inf) if what < 11 else (0.0, 1.0, -2.0)
        whole = (0, -1, 1, 127, 100)
        if tensor.is_floating_point():
            tensor.view(-1)[at] = dice.choice(odd)
        else:
            tensor.view(-1)[at] = dice.choice(whole) % (256 if tensor.dtype == torch.uint8 else 2**31)
        tensors[name] = tensor
    return [encode(payload._replace(tensors=tensors))]


def repeated(one: Case, others: list[Case], dice: random.Random) -> list[bytes]:
    """The same message twice."""
    return [one.encoded, one.encoded]


MUTATORS: tuple[Callable[[Case, list[Case], random.Random], list[bytes]], ...] = (
    flipped, cut, spliced, rewritten, retold, retold, repeated,
)  # fmt: skip
"""Ways to change a message; those of well-formed ones twice as often."""


# --- receiving -------------------------------------------------------------------------------------


def wrong(one: Case, encoded: bytes, sender: str, tensors: dict[str, Tensor]) -> str | None:
    """Why these tensors should not have been taken, asked without the code that is tried."""
    envelope = json.loads(encoded[8 : 8 + length(encoded)])["__metadata__"]
    if (envelope["kind"], envelope["round"]) != (one.payload.kind, str(ROUND)):
        return "of another kind or round"
    if envelope["sender"] != sender or sender not in (("hub",) if one.expected.apart else PEERS):
        return "of another sender"
    if one.rows.tensors.keys() - {WEIGHT} != tensors.keys() - {WEIGHT}:
        return "of other names"
    for name, given in tensors.items():
        like = one.rows.tensors[name]
        if given.shape != like.shape or given.dtype != like.dtype:
            return "of another shape or type"
        # A class that is ruled out has -inf as its logit.
        ruled_out = name in one.payload.logits and bool(
            (given != torch.inf).all() and not given.isnan().any()
        )
        if given.is_floating_point() and not ruled_out and not bool(given.isfinite().all()):
            return "of values that mean nothing"
    return None


def outcome(one: Case, encoded: list[bytes], transport: Handed, delivery: Delivery) -> str:
    """What the receiver makes of messages; begins with FAILED where it should not have."""
    transport.messages = tuple(Message(message, [PEERS[1]]) for message in encoded)
    delivery.ledger.refused.clear()
    try:
        stacks = delivery.deliver(one.payload.kind, ROUND, [], lambda: one.expected)
    except TooLong:
        return "FAILED: too long"
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}"
    refused = [reason for (_, _, reason), _ in delivery.ledger.refused.items()]
    rows = [(stack, sender, row) for stack in stacks for row, sender in enumerate(stack.senders)]
    if len(rows) + sum(delivery.ledger.refused.values()) != len(encoded) or len(rows) > 1:
        return "FAILED: a message is neither taken nor refused, or taken twice"
    if not rows:
        return f"refused: {refused[0]}"
    stack, sender, row = rows[0]
    tensors = {name: tensor[row] for name, tensor in stack.tensors.items()}
    if (why := wrong(one, encoded[0], sender, tensors)) is not None:
        return f"FAILED: taken, and {why}"
    if refused:
        return f"refused: {refused[0]}"
    same = tensors.keys() == one.rows.tensors.keys()
    same = same and all(torch.equal(tensors[name], like) for name, like in one.rows.tensors.items())
    return "equal" if same and sender == one.payload.sender else "harmless change"


def attempt(count: int, seed: int) -> Counter[str]:
    """What came of so many mutants."""
    dice, found = random.Random(seed), Counter[str]()
    torch.manual_seed(seed)
    every, transport = cases(), Handed()
    delivery = Delivery(transport, Ledger(PEERS))

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(count):
            one, mutate = dice.choice(every), dice.choice(MUTATORS)
            try:
                encoded = mutate(one, every, dice)
            except Exception:  # such a message cannot even be written
                found["not written"] += 1
                continue
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            found[outcome(one, encoded, transport, delivery)] += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found


def main() -> int:
    """Try mutants, and print what came of them; the status is 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    LOG.setLevel(logging.ERROR)  # each sender and reason would be named
    torch.set_num_threads(1)
    attempt(1000, arguments.seed)
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = attempt(arguments.mutants, arguments.seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    for what, number in sorted(found.items()):
        print(f"{number:9}  {what}")
    seconds = time.process_time() - began
    print(f"{arguments.mutants} messages, {seconds:.0f} s of computing, {grown / 2**20:.0f} MiB more memory")
    return int(grown > MEMORY or any(what.startswith("FAILED") for what in found))


if __name__ == "__main__":
    raise SystemExit(main())

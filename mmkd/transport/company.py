"""The processes of a network: who is there, who has gone, and what each has told of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmkd.transport.introduction import Introduction, Particulars, different
from mmkd.transport.letters import ROOT
from mmkd.types import ConfigError

PATIENCE = 2.0
"""Seconds in which a process that is there tells who it is."""
FAREWELL = 10.0
"""Seconds that a process which has ended stays for those who may still ask it for something."""


class Company:
    """Meets other processes of a network, and is met by them.

    A process is there while its token lives, which ends with its connection: it need not say that it goes.

    Args:
        session: of Zenoh.
        study: that all share.
        own: what this process tells of itself now.
        changed: called when somebody comes or goes, in a thread of the network.
        drop: called with process, reason and detail of what makes no sense.
    """

    def __init__(
        self,
        session: Any,
        study: str,
        own: Callable[[], Introduction],
        changed: Callable[[], None],
        drop: Callable[[str, str, str], None],
    ) -> None:
        self._session, self._here, self._own, self._now = session, f"{ROOT}/{study}", own(), own
        self._study, self._changed, self._drop = study, changed, drop
        self._lock = threading.Lock()
        self._alive: dict[str, set[str]] = {}
        self._left: set[str] = set()
        self._particulars: Particulars | None = None
        self.others: dict[str, Introduction] = {}
        """What other processes of this network have told, by process."""
        self.particulars: dict[str, Particulars] = {}
        """What they are configured to do and what their peers are, once both sides know, by process."""
        me, liveliness = f"{self._own.process}/{self._own.instance}", session.liveliness()
        who = f"{self._here}/who/{me}"
        self._declared = [
            # By its own key, for of answers to a pattern of keys that say the pattern Zenoh keeps one.
            session.declare_queryable(who, lambda query: _answer(query, who, own().encode())),
            session.declare_queryable(f"{self._here}/what/{me}", self._tell),
            liveliness.declare_subscriber(f"{self._here}/alive/**", self._comes_or_goes, history=True),
            liveliness.declare_subscriber(f"{self._here}/left/**", self._leaves, history=True),
            liveliness.declare_token(f"{self._here}/alive/{me}"),
        ]

    def meet(self) -> list[str]:
        """Ask processes that have come who they are; returns those that are known from now on.

        Raises:
            ConfigError: one holds a peer that is here, too, or is configured otherwise.
        """
        met = []
        for process, instance in list(self._strangers()):
            for sent in self._asked(f"who/{process}/{instance}"):
                try:
                    other = Introduction.decode(sent)
                except ValueError as error:
                    self._drop(process, "introduction", str(error))
                    continue
                if (other.process, other.instance) == (process, instance) and self._may_come(other):
                    self.others[process] = other
                    self.particulars.pop(process, None)
                    met.append(process)
        if self._particulars is not None:
            self._learn()
        return met

    def tell(self, particulars: Particulars) -> None:
        """Say from now on what the peers here are, and learn it of others."""
        self._particulars = particulars

    def _learn(self) -> None:
        """Ask known processes what their peers are, of which that is not known yet.

        Raises:
            ConfigError: one is configured otherwise.
        """
        assert self._particulars is not None
        for process, other in self.others.items():
            if process in self.particulars:
                continue
            for sent in self._asked(f"what/{process}/{other.instance}"):
                try:
                    told = Particulars.decode(sent)
                    if {*told.facts} != {*other.peers}:
                        raise ValueError("particulars of other peers")
                except ValueError as error:
                    self._drop(process, "introduction", str(error))
                    continue
                if odd := different(self._particulars.settings, told.settings):
                    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
                    raise ConfigError(
                        f"the process of '{process}' has another {odd[0]}{more}; give every process the same"
                        " configuration"
                    )
                self.particulars[process] = told

    def _asked(self, what: str) -> Iterator[bytes]:
        for reply in self._session.get(f"{self._here}/{what}", timeout=PATIENCE):
            if reply.ok is not None:
                yield bytes(reply.ok.payload)

    def _strangers(self) -> Iterator[tuple[str, str]]:
        with self._lock:
            there = [(process, instance) for process, ones in self._alive.items() for instance in ones]
        for process, instance in there:
            known = self.others.get(process)
            if instance != self._own.instance and (known is None or known.instance != instance):
                yield process, instance

    def _may_come(self, other: Introduction) -> bool:
        """Whether a process has peers of its own; of two with one peer, one that does not train has to go."""
        if twice := [name for name in other.peers if name in self._own.peers]:
            own = self._now()
            if own.round >= 0 or (other.round < 0 and own.instance < other.instance):
                return False
            raise ConfigError(
                f"another process of '{self._study}' holds the peer '{twice[0]}'; give each process peers of"
                " its own"
            )
        return True

    def there(self) -> set[str]:
        """The known processes that are there now."""
        with self._lock:
            return {p for p, other in self.others.items() if other.instance in self._alive.get(p, ())}

    def of(self, instance: str) -> Introduction | None:
        """The known process of that instance."""
        return next((other for other in self.others.values() if other.instance == instance), None)

    def part(self) -> None:
        """Say that this process has ended, and wait until all others have."""
        token = f"{self._here}/left/{self._own.process}/{self._own.instance}"
        self._declared.append(self._session.liveliness().declare_token(token))
        until = time.monotonic() + FAREWELL
        while time.monotonic() < until and {self.others[p].instance for p in self.there()} - self._left:
            time.sleep(0.01)

    # --- in threads of the network -------------------------------------------------------------------

    def _tell(self, query: Any) -> None:
        if self._particulars is None:
            query.drop()
        else:
            _answer(query, str(query.key_expr), self._particulars.encode())

    def _comes_or_goes(self, sample: Any) -> None:
        process, _, instance = str(sample.key_expr).removeprefix(f"{self._here}/alive/").rpartition("/")
        with self._lock:
            ones = self._alive.setdefault(process, set())
            (ones.add if _is_put(sample) else ones.discard)(instance)
        self._changed()

    def _leaves(self, sample: Any) -> None:
        if _is_put(sample):
            self._left.add(str(sample.key_expr).rpartition("/")[2])


def listed(names: Sequence[object]) -> str:
    """Names as in a sentence, at most five."""
    return ", ".join(f"'{n}'" for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _answer(query: Any, key: str, told: bytes) -> None:
    with query:
        query.reply(key, told)


def _is_put(sample: Any) -> bool:
    return str(sample.kind).endswith("PUT")

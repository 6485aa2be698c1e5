"""The processes of a network: who is there, who has gone, and what each has told of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmkd.transport.introduction import Introduction, different
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
        own: what this process tells of itself.
        changed: called when somebody comes or goes, in a thread of the network.
        drop: called with process, reason and detail of what makes no sense.
    """

    def __init__(
        self,
        session: Any,
        study: str,
        own: Introduction,
        changed: Callable[[], None],
        drop: Callable[[str, str, str], None],
    ) -> None:
        self._session, self._here, self._own = session, f"{ROOT}/{study}", own
        self._study, self._changed, self._drop = study, changed, drop
        self._lock = threading.Lock()
        self._alive: dict[str, set[str]] = {}
        self._left: set[str] = set()
        self.others: dict[str, Introduction] = {}
        """What other processes of this network have told, by process."""
        told, me = own.encode(), f"{own.process}/{own.instance}"
        liveliness = session.liveliness()
        self._declared = [
            session.declare_queryable(f"{self._here}/who/{me}", lambda query: _answer(query, told)),
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
            for reply in self._session.get(f"{self._here}/who/{process}/{instance}", timeout=PATIENCE):
                if reply.ok is None:
                    continue
                try:
                    other = Introduction.decode(bytes(reply.ok.payload))
                except ValueError as error:
                    self._drop(process, "introduction", str(error))
                    continue
                if (other.process, other.instance) == (process, instance) and self._fits(other):
                    self.others[process] = other
                    met.append(process)
        return met

    def _strangers(self) -> Iterator[tuple[str, str]]:
        with self._lock:
            there = [(process, instance) for process, ones in self._alive.items() for instance in ones]
        for process, instance in there:
            known = self.others.get(process)
            if instance != self._own.instance and (known is None or known.instance != instance):
                yield process, instance

    def _fits(self, other: Introduction) -> bool:
        """Whether a process is one of this network; of two with one peer, the later one has to go."""
        if twice := [name for name in other.facts if name in self._own.facts]:
            if self._own.instance < other.instance:
                return False
            raise ConfigError(
                f"another process of '{self._study}' holds the peer '{twice[0]}'; give each process peers of"
                " its own"
            )
        if odd := different(self._own.settings, other.settings):
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise ConfigError(
                f"the process of '{other.process}' has another {odd[0]}{more}; give every process the same"
                " configuration"
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

    def _comes_or_goes(self, sample: Any) -> None:
        process, _, instance = str(sample.key_expr).removeprefix(f"{self._here}/alive/").rpartition("/")
        with self._lock:
            ones = self._alive.setdefault(process, set())
            (ones.add if _is_put(sample) else ones.discard)(instance)
        self._changed()

    def _leaves(self, sample: Any) -> None:
        if _is_put(sample):
            self._left.add(str(sample.key_expr).rpartition("/")[2])


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence, at most five."""
    return ", ".join(f"'{n}'" for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _answer(query: Any, told: bytes) -> None:
    with query:
        query.reply(query.key_expr, told)


def _is_put(sample: Any) -> bool:
    return str(sample.kind).endswith("PUT")

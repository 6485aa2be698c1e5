"""A transport between processes, on one machine or on many, over Zenoh: no broker, and no head."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from secrets import token_hex
from typing import Annotated, Any, Literal

from mmkd.bounds import Bound, Positive, Whole, bounded
from mmkd.description import Setting
from mmkd.transport.base import Mail, Message, Transport
from mmkd.transport.company import Company, listed
from mmkd.transport.facts import Facts, everybody
from mmkd.transport.introduction import Introduction, Particulars, hashed
from mmkd.transport.letters import Exchange
from mmkd.transport.mailbox import AHEAD, Letter, Mailbox
from mmkd.transport.newest import Newest
from mmkd.transport.post import Post
from mmkd.transport.session import opened
from mmkd.types import ConfigError, PeerName, SilentError

LOG = logging.getLogger(__name__)
"""Where letters that are dropped are named, once for each process and reason."""
START = -1
"""The state before the first round, among those that are saved."""
COMING = 2
"""Rounds between the one in which others train and the one in which a process that comes late begins."""
AGAIN = 1.0
"""Seconds after which a process that waits asks for letters again."""
NAMED = 1000
"""How many processes and reasons are told apart at most."""


@bounded
class ZenohTransport(Transport):
    """Carries messages between processes that hold the peers of one configuration.

    Each process sends what its peers say straight to the processes of those who hear it, under the key
    ``mmkd/<study>/<round>/<peer>/<kind>/to/<process>``, and a process is called by its first peer. An
    exchange ends for a process when all others have said what they have to say in it, be it nothing; so all
    go through the same exchanges, and numbers are those of one process. What got lost, by a link that broke
    or a process that was not there yet, is asked for again.

    Args:
        study: a name that all processes of a network share; those of another are not heard.
        listen: endpoints on which others reach this process, such as ``tcp/127.0.0.1:7447``.
        connect: endpoints of others; whoever one of them knows is found, too.
        hosts: whether hubs are in this process; in one of all.
        deadline: seconds that an exchange waits for others.
        late: what becomes of an exchange in which somebody is silent until the deadline: ``stop`` ends the
            run, which goes on from its last checkpoints; ``go_on`` takes them as absent, and a process that
            is gone is not waited for. ``asynchronous`` waits for nobody: every process goes on at once with
            the newest that each other has said since it looked last.
        stale: rounds of this process for which what somebody has said about samples is heard again, while it
            says nothing new. What is said about a batch of public samples is of no use for others.
        gather: seconds that a process waits until all others are there, before training.
        largest: bytes of the largest message that is read.
        keys: folder with this process's certificate (``mmkd network keys``), for endpoints that begin with
            ``tls/``.
        open: listen without certificates where others than this machine can connect.
    """

    def __init__(
        self,
        study: str,
        *,
        listen: list[str] | None = None,
        connect: list[str] | None = None,
        hosts: bool = False,
        deadline: Positive = 60.0,
        late: Literal["stop", "go_on", "asynchronous"] = "stop",
        stale: Whole = 0,
        gather: Positive = 300.0,
        largest: Annotated[int, Bound(1024, 2**40)] = 2**28,
        keys: str | None = None,
        open: bool = False,
    ) -> None:
        if not study or any(letter in study for letter in "/*$?#"):
            raise ConfigError(f"a study cannot be called {study!r} on a network: leave / * $ ? # out")
        self.study, self.hosts = study, hosts
        self.goes_on, self.asynchronous = late != "stop", late == "asynchronous"
        self._listen, self._connect, self._keys, self._open = listen or [], connect or [], keys, open
        self._deadline, self._gather, self._largest, self._stale = deadline, gather, largest, stale
        self._session: Any = None
        self._mailbox = Newest(8 * largest) if self.asynchronous else Mailbox(8 * largest)
        self._own: Introduction
        self._company: Company
        self._post: Post
        self._everybody: Mapping[PeerName, Facts] = {}
        self._trains = False
        self._coming = COMING
        self._round = 0
        self._began, self._woke = math.inf, -math.inf  # the last exchange; and the last that took too long
        self._counted: Counter[tuple[str, int]] = Counter()
        self._silent: dict[str, int] = {}
        self._last: dict[tuple[str, str, int], tuple[int, list[Letter]]] = {}
        self.dropped: Counter[tuple[str, str]] = Counter()
        """How many letters were dropped, by process and reason."""

    def meet(
        self, own: Sequence[PeerName], awaited: Collection[PeerName], saved: Collection[int] = ()
    ) -> int | None:
        """Wait until the processes are there that hold all other peers, and agree on where to begin.

        Args:
            own: peers of this process.
            awaited: peers of other processes.
            saved: rounds after which this process has checkpoints.

        Returns:
            the round after whose checkpoint this process goes on; None if it begins anew. Where the others
            are training, it is its latest, and ``begins`` is the round in which it comes in.

        Raises:
            ConfigError: they do not come, two hold the same peer or hubs, or no round is saved by all.
            SilentError: they train without this process, and all are to begin together.
        """
        from mmkd import __version__

        self._own = Introduction(own[0], token_hex(8), self.hosts, __version__, (*own,), (*sorted(saved),))
        self._session = opened(self._listen, self._connect, self._keys, self._largest, open=self._open)
        try:
            self._company = Company(self._session, self.study, self._self, self._mailbox.wake, self._drop)
            self._post = Post(
                self._session,
                self.study,
                self._own,
                self._company,
                {*own, *awaited},
                self._mailbox,
                self._largest,
                self._drop,
            )
            others = self._company.others
            self._wait(
                lambda: [n for n in awaited if not any(n in other.peers for other in others.values())],
                "nobody has come who holds",
            )
            after = self._agreed()
            self._mailbox.begin(after or 0)
            return after
        except (ConfigError, SilentError):
            self.leave(at_once=True)
            raise

    def _self(self) -> Introduction:
        """What this process tells of itself now."""
        return self._own._replace(round=self._round if self._trains else -1, sent=self._sent())

    def _sent(self) -> Mapping[str, int]:
        return self._post.bytes if self._trains else {}

    def _agreed(self) -> int | None:
        """The round after which this process goes on."""
        everyone = [self._own, *self._company.others.values()]
        if len(hosts := [each.process for each in everyone if each.hosts]) > 1:
            raise ConfigError(f"hubs are in one process, and {listed(hosts)} both have them: set one's hosts")
        running = [each.round for each in everyone if each.round >= 0]
        if self.asynchronous:
            return max(self._own.saved, default=None)
        if running and not self.goes_on:
            raise SilentError(
                f"the others of '{self.study}' are training already, and with late: stop all begin together:"
                " start this process again when they have stopped, too"
            )
        if running:
            self.begins = max(running) + self._coming
            return max(self._own.saved, default=None)
        # Who has saved the first round alone, or nothing, can begin anew: all are at most a round apart.
        states = [{*e.saved} | ({START} if max(e.saved, default=START) <= 0 else set()) for e in everyone]
        common = set.intersection(*states)
        if not common:
            told = "; ".join(f"{e.process}: {' and '.join(map(str, e.saved)) or 'none'}" for e in everyone)
            raise ConfigError(
                f"no round is saved by all processes ({told}): bring the others' checkpoints back, or remove"
                " all of them and begin anew"
            )
        return max(common) if max(common) > START else None

    def _wait(self, lacking: Callable[[], list[PeerName]], what: str) -> None:
        """Meet others until nobody is lacking.

        Raises:
            ConfigError: somebody is, for too long.
        """
        until = time.monotonic() + self._gather
        while missing := lacking():
            if time.monotonic() > until:
                raise ConfigError(
                    f"after {self._gather:.0f} s {what} {listed(sorted(missing))}: start their processes, or"
                    " name one that runs in connect"
                )
            self._company.meet()
            time.sleep(0.02)

    def join(
        self,
        facts: Mapping[PeerName, Facts],
        awaited: Collection[PeerName] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> Mapping[PeerName, Facts]:
        """Learn what the other peers are, after ``meet``, or after meeting them.

        Raises:
            ConfigError: their processes do not come, or one has other settings.
        """
        wanted = {*awaited} - {*facts}
        if self._session is None:
            self.meet([*facts], wanted)
        try:
            self._company.tell(Particulars(hashed(settings or {}), facts))
            known = self._company.particulars
            self._wait(
                lambda: [n for n in wanted if not any(n in told.facts for told in known.values())],
                "it is not known what these are:",
            )
            self._trains = True
        except ConfigError:
            self.leave(at_once=True)
            raise
        self._everybody = everybody([facts, *(told.facts for told in known.values())])
        return self._everybody

    def deliver(self, mail: Mail) -> Mail:
        """Send what is said here to those who hear it elsewhere, and wait for what they say.

        Raises:
            SilentError: somebody is silent until the deadline, and the run is to stop.
        """
        exchange = Exchange(mail.kind, mail.round, self._counted[mail.kind, mail.round])
        self._counted[mail.kind, mail.round] += 1
        self._round = max(self._round, mail.round)
        self._mailbox.begin(mail.round)
        now = time.monotonic()
        if now - self._began > self._deadline:  # nobody has waited for this process any longer
            self._woke = now
        self._began = now
        if self.goes_on and not self.asynchronous and now - self._woke < self._deadline:
            self._catch_up(mail.round)
        if mail.round < self.begins:
            return mail
        self._post.send(mail, exchange)
        if self.asynchronous:
            self._company.meet()
        else:
            self._await(exchange)
        letters = self._mailbox.take(exchange)
        letters = {process: own for process, own in letters.items() if self._fits(process, own, mail)}
        if self._stale and mail.about:
            letters = self._remembered(letters, mail, exchange)
        # In the order of the peers, whoever was first.
        order = sorted(letters, key=lambda process: self._everybody[process].id)
        return mail._replace(
            messages=[
                Message(letter.encoded, letter.slip.receivers, letter.round)
                for process in order
                for letter in letters[process]
                if letter.slip.of
            ]
        )

    def _fits(self, process: str, letters: Sequence[Letter], mail: Mail) -> bool:
        """Whether letters are about the same samples as this process's own; they are dropped, if not."""
        if odd := [letter for letter in letters if letter.slip.about != mail.about]:
            self._drop(process, "samples", f"'{mail.kind}' of round {odd[0].round} is about others than here")
        return not odd

    def _remembered(
        self, letters: Mapping[str, list[Letter]], mail: Mail, exchange: Exchange
    ) -> dict[str, list[Letter]]:
        """Letters of this exchange; of who is absent the last ones about the same samples, if not too old."""
        found = dict(letters)
        for process in self._company.others:
            which = (process, exchange.kind, exchange.number)
            if process in letters:
                self._last[which] = mail.round, letters[process]
            elif which in self._last:
                heard, last = self._last[which]
                if mail.round - heard <= self._stale and last[0].slip.about == mail.about:
                    found[process] = last
        return found

    def _catch_up(self, round: int) -> None:
        """Leave rounds out in which nobody waits for this process any more, after a long sleep.

        What others sent meanwhile may still arrive, so it is looked at for a while. Those who come in late
        say something of a later round, too; they wait for this process.
        """
        latest = [self._mailbox.latest.get(process, 0) for process in self._company.there()]
        if latest and min(latest) > round + AHEAD and self.begins <= round:
            self._coming *= 2  # it was not early enough the last time
            self.begins = max(latest) + self._coming
            LOG.warning(
                "the others are in round %d, and this process in %d: it comes in in round %d",
                max(latest),
                round,
                self.begins,
            )

    def _await(self, exchange: Exchange) -> None:
        assert isinstance(self._mailbox, Mailbox)
        until = time.monotonic() + self._deadline
        for process in self._awaited(exchange):  # who comes in in a later round waits for it there
            if self._mailbox.early.get(process) == exchange.round:
                self._post.ask_again(process, exchange)
        while missing := self._mailbox.wait(exchange, self._awaited(exchange), min(AGAIN, self._deadline)):
            # A process that has come back is waited for once it is heard.
            self._silent |= dict.fromkeys(self._company.meet(), exchange.round)
            if time.monotonic() < until:
                for process in missing:
                    self._post.ask_again(process, exchange)
                continue
            if not self.goes_on:
                raise SilentError(
                    f"the process of {listed(sorted(missing))} has been silent for {self._deadline:.0f} s in"
                    f" the exchange of '{exchange.kind}' in round {exchange.round}; go on from the last"
                    " checkpoints when it is back, or set late to go_on"
                )
            self._silent |= dict.fromkeys(missing, exchange.round)
            return

    def _awaited(self, exchange: Exchange) -> set[str]:
        """The processes that an exchange waits for.

        With ``go_on`` not those that were silent, until they are heard, nor those that are in later rounds.
        """
        if not self.goes_on:
            return {*self._company.others}
        latest = {process: self._mailbox.latest.get(process, 0) for process in self._company.there()}
        return {p for p, at in latest.items() if self._silent.get(p, -1) < at <= exchange.round}

    def leave(self, *, at_once: bool = False) -> None:
        """Say that this process has ended, and stay until all others have: they may still ask for letters."""
        if self._session is None:
            return
        if not (at_once or self.asynchronous):
            self._company.part()
        session, self._session = self._session, None
        session.close()

    def _drop(self, process: str, reason: str, detail: str) -> None:
        """Count a letter that is dropped, and name it if it is the first of its process and reason."""
        named = (process if len(self.dropped) < NAMED else "", reason)
        self.dropped[named] += 1
        if self.dropped[named] == 1 and reason not in ("late", "repeated"):
            shown = "".join(letter if letter.isprintable() else "?" for letter in detail[:200])
            LOG.warning("a letter of '%s' is dropped (%s): %s", process[:40] or "somebody", reason, shown)

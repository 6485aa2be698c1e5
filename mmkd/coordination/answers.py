"""The last answers of a hub, and who has heard them: a peer that comes back gets them first."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmkd.coordination.cluster_mail import ClusterMail
from mmkd.coordination.members import Members
from mmkd.encoding import Compression
from mmkd.functional.trees import Tree, add, subtract


class Answers:
    """The last answer of each kind; where the hub is in another process, as it has arrived in this one.

    Args:
        members: of the cluster.
        mail: carries what the hub says.
    """

    def __init__(self, members: Members, mail: ClusterMail) -> None:
        self._members, self._mail = members, mail
        self.latest: dict[str, Tree] = {}
        """The last answers by kind, which a peer has to know to take part."""
        self.fresh = torch.ones(len(members.names), dtype=torch.bool)
        """For each peer, whether it has heard them."""
        self._own: Tree | None = None

    def say(
        self,
        kind: str,
        round: int,
        tree: Tree,
        rows: Sequence[int],
        compression: Compression | None = None,
        told: Tree | None = None,
    ) -> Tree:
        """Send one answer of the hub, if there is one, to some rows; what they know then.

        Args:
            kind: of the payload.
            round: the round.
            tree: what they are to know.
            rows: who listens.
            compression: of what is sent.
            told: what they know already, so that only the difference is sent; all is sent, if None.
        """
        if compression is None:
            return self._tell(kind, round, tree, rows)
        change = tree if told is None else subtract(tree, told)
        said = compression.encode(change, [("hub", kind, round)])
        known = compression.decode(self._tell(kind, round, said, rows, compression, tree), tree)
        return known if told is None else add(told, known)

    def fetch(self, round: int, rows: Sequence[int], kinds: Sequence[str]) -> None:
        """Send the last answers to those of the rows that sat out when the hub sent them."""
        fresh = self.fresh.tolist()
        stale = [row for row in rows if not fresh[row]]
        if not stale or self._mail.hub is None:
            return
        for kind in kinds:
            self.latest[kind] = self._tell(kind, round, self.latest[kind], stale)
        self._members.load([self._members.names[row] for row in stale], self.latest["weights"])
        self.fresh[stale] = True

    def conclude(self, x: Tree, rows: Sequence[int]) -> None:
        """Note the hub's weights at the end of a round, which some rows have heard and no others."""
        self.fresh = torch.zeros_like(self.fresh)
        self.fresh[list(rows)] = True
        self.latest["weights"] = x

    def show(self) -> None:
        """Give every peer the hub's weights, to be evaluated; nothing is counted as sent.

        Where the hub is in another process its weights are unknown, and peers keep their own.
        """
        members = self._members
        if "weights" in self.latest and self._mail.hosts and not bool(self.fresh.all()):
            self._own = members.weights(members.here)
            members.load(members.here, self.latest["weights"])

    def hide(self) -> None:
        """Give each peer its own weights back, after ``show``."""
        if self._own is not None:
            self._members.load(self._members.here, self._own)
            self._own = None

    def _tell(
        self,
        kind: str,
        round: int,
        tree: Tree,
        rows: Sequence[int],
        compression: Compression | None = None,
        like: Tree | None = None,
    ) -> Tree:
        """The same tree, or what arrives of it where the hub is in another process and somebody listens."""
        if self._mail.hub is None:
            return tree
        names = [self._members.names[row] for row in rows]
        return self._mail.tell(kind, round, tree, names, compression, like) or tree

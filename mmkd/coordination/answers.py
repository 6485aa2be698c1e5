"""What a hub has told a cluster, and who of it has heard that: a peer that comes back fetches it first."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmkd.coordination.cluster_mail import ClusterMail
from mmkd.coordination.members import Members
from mmkd.encoding import Compression
from mmkd.functional.trees import Tree, add, subtract


class Answers:
    """The last answer of each kind. Where the hub is in another process they are what was heard of it here.

    Args:
        members: of the cluster.
        mail: carries what the hub says.
    """

    def __init__(self, members: Members, mail: ClusterMail) -> None:
        self._members, self._mail = members, mail
        self.latest: dict[str, Tree] = {}
        """By kind, as a peer has to know them to take part."""
        self.fresh = torch.ones(len(members.names), dtype=torch.bool)
        """Who has heard them."""
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
        """The hub, if there is one, tells some rows the same; what they know then.

        Args:
            kind: of the payload.
            round: the round.
            tree: what they are to know.
            rows: who listens.
            compression: of what is said.
            told: what they know already, so that the difference is said; if None, all is.
        """
        if compression is None:
            return self._tell(kind, round, tree, rows)
        change = tree if told is None else subtract(tree, told)
        said = compression.encode(change, [("hub", kind, round)])
        known = compression.decode(self._tell(kind, round, said, rows), tree)
        return known if told is None else add(told, known)

    def fetch(self, round: int, rows: Sequence[int], kinds: Sequence[str]) -> None:
        """Those of the rows that were not there when the hub spoke last hear it now."""
        fresh = self.fresh.tolist()
        stale = [row for row in rows if not fresh[row]]
        if not stale or self._mail.hub is None:
            return
        for kind in kinds:
            self.latest[kind] = self._tell(kind, round, self.latest[kind], stale)
        self._members.load([self._members.names[row] for row in stale], self.latest["weights"])
        self.fresh[stale] = True

    def conclude(self, x: Tree, rows: Sequence[int]) -> None:
        """A round has ended: some rows have heard where the hub stands, and nobody else has."""
        self.fresh = torch.zeros_like(self.fresh)
        self.fresh[list(rows)] = True
        self.latest["weights"] = x

    def show(self) -> None:
        """Stand everybody where the hub stands, to be evaluated; costs nothing.

        Where the hub is in another process nobody knows, and each is evaluated where it stands itself.
        """
        members = self._members
        if "weights" in self.latest and self._mail.hosts and not bool(self.fresh.all()):
            self._own = members.weights(members.here)
            members.load(members.here, self.latest["weights"])

    def hide(self) -> None:
        """Back to where each stood."""
        if self._own is not None:
            self._members.load(self._members.here, self._own)
            self._own = None

    def _tell(self, kind: str, round: int, tree: Tree, rows: Sequence[int]) -> Tree:
        """The same tree, or what arrives of it where the hub is elsewhere and somebody here listens."""
        if self._mail.hub is None:
            return tree
        return self._mail.tell(kind, round, tree, [self._members.names[row] for row in rows]) or tree

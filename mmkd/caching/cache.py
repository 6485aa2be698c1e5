"""The settings of a knowledge cache."""

from __future__ import annotations

from pathlib import Path

from mmkd.bounds import Count, Share, SomeShare, bounded
from mmkd.caching.eviction import Eviction, ExpectedChange
from mmkd.caching.store import Memory, Store
from mmkd.types import ConfigError


@bounded
class KnowledgeCache:
    """What a listener knows of a sample already is not said again, but read from what it was told before.

    A statement is kept by speaker and sample, and stands until the speaker says something else or it is stale
    (soft-label caching: Azuma et al. 2025, who keep by age alone). A speaker says a sample anew if some
    listener does not have it, if it is stale, or if it changed by more than ``change``; so with ``change: 0``
    and ``most: 1`` a run is the same as without a cache. A message that leaves something out has a bit for
    each sample.

    Args:
        stale: ticks for which a statement may stand.
        change: the most by which what listeners have may differ from what a speaker would say, in any class
            probability; of statements other than logits in units of the greatest number of a row; in the
            weight of a sample, where a hub's answer has some. 0 leaves out only what is equal to the last
            bit; 1 asks for age alone.
        most: greatest share of the samples of an exchange that a speaker says anew because they changed:
            those that changed most. Others wait until they are among these, or stale.
        near: speakers say the same of samples of which they would say nearly the same, and send it once: the
            most by which it may differ, in the units of ``change`` and at most as much. Statements are
            compared and not what students see, for hubs see nothing; 0 sends each by itself.
        entries: the most statements that are kept of each speaker; all, if left out.
        eviction: which go where there are more: by expected change, if left out.
        folder: keeps them on a disk, in LMDB (``mmkd[cache]``), where processes of one host share them;
            in memory, if left out.

    Raises:
        ConfigError: ``near`` is greater than ``change``.
    """

    def __init__(
        self,
        stale: Count,
        change: Share = 0.0,
        most: SomeShare = 1.0,
        near: Share = 0.0,
        entries: Count | None = None,
        eviction: Eviction | None = None,
        folder: str | Path | None = None,
    ) -> None:
        if near > change:
            raise ConfigError(
                f"KnowledgeCache: near is {near:g} and change {change:g}: what stands for something else"
                " would be said anew each time; give near at most as much as change"
            )
        self.stale, self.change, self.most, self.near, self.entries = stale, change, most, near, entries
        self.eviction = eviction or ExpectedChange()
        self.folder = None if folder is None else Path(folder)

    def opened(self, run: str) -> Store:
        """The store of a run.

        Args:
            run: names it: others do not write over its entries.

        Raises:
            ConfigError: lmdb is not installed, or the folder cannot be written.
        """
        if self.folder is None:
            return Memory()
        from mmkd.caching.disk import Disk

        return Disk(self.folder, run)

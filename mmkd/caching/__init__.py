"""Caches: what listeners know of public samples already, in memory or on a disk that processes share."""

from mmkd.caching.cache import KnowledgeCache
from mmkd.caching.eviction import (
    Eviction,
    ExpectedChange,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    Seen,
    TimeToLive,
)

__all__ = [
    "Eviction",
    "ExpectedChange",
    "KnowledgeCache",
    "LeastFrequentlyUsed",
    "LeastRecentlyUsed",
    "Seen",
    "TimeToLive",
]

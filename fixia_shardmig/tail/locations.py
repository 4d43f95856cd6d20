"""Knows on which shards a key is, as of the last change that was routed.

A shard set is an int, one bit a shard; 0 is nowhere. The cache is the truth about what it holds, since nobody but the
tail writes to the shards; what it does not hold is asked of all shards at once. A batch that is rolled back clears it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from itertools import islice

from fixia_shardmig.placement.stream import Key
from fixia_shardmig.tail.tables import Keyspace

ENTRIES_MAX = 300_000
"""About 75 MB at uuid keys; beyond it the older half is forgotten and asked again when it is needed."""

Find = Callable[[Keyspace, list[Key]], list[int]]
"""(keyspace, keys) -> each key's shard set, from the shards' open transactions."""


class Locations:
    """Keys and their shard sets, by keyspace."""

    def __init__(self, find: Find, kept_longest: Container[Keyspace] = ()) -> None:
        """Start with nothing known; some keyspaces are worth more than others, and trimmed last."""
        self._find = find
        self._kept_longest = kept_longest
        self._known: dict[Keyspace, dict[Key, int]] = {}

    def within(self, space: Keyspace) -> dict[Key, int]:
        """Return what is known of a keyspace: the same dict as long as this lives, so that it can be kept."""
        return self._known.setdefault(space, {})

    def fetch(self, space: Keyspace, keys: Iterable[Key]) -> None:
        """Make sure that keys are known, with one query a shard for those that are not."""
        known = self.within(space)
        unknown = [key for key in dict.fromkeys(keys) if key not in known]
        if unknown:
            known.update(zip(unknown, self._find(space, unknown), strict=True))

    def of(self, space: Keyspace, key: Key) -> int:
        """Return a key's shard set."""
        known = self.within(space)
        found = known.get(key)
        if found is None:
            self.fetch(space, (key,))
            found = known[key]
        return found

    def known(self, space: Keyspace, key: Key) -> int:
        """Return a key's shard set if it is known, without asking."""
        return self._known.get(space, {}).get(key, 0)

    def put(self, space: Keyspace, key: Key, shards: int) -> None:
        """Remember where a key is from now on."""
        self.within(space)[key] = shards

    def forget(self, space: Keyspace) -> None:
        """Forget a keyspace, since its table was emptied."""
        self.within(space).clear()

    def forget_all(self) -> None:
        """Forget everything, since what was routed did not come to be."""
        for known in self._known.values():
            known.clear()

    @property
    def is_full(self) -> bool:
        """Whether more is known than has room."""
        return self._size > ENTRIES_MAX

    @property
    def _size(self) -> int:
        return sum(map(len, self._known.values()))

    def trim(self, spaces: Container[Keyspace] | None = None) -> None:
        """Keep memory bounded; to be called between batches, or when nothing waits to be sent to a shard.

        In the middle of a batch only the given keyspaces may be trimmed: those whose entries always say what the shards
        would. Under another key a row may have gone unseen, and that somebody followed it there must not be forgotten.
        """
        excess = self._size - ENTRIES_MAX // 2 if self.is_full else 0
        for is_last in (False, True):
            trimmed = [
                known
                for space, known in self._known.items()
                if (spaces is None or space in spaces) and (space in self._kept_longest) is is_last
            ]
            size = sum(map(len, trimmed))
            share = min(1.0, excess / size) if size else 0.0
            for known in trimmed:
                for key in list(islice(known, math.ceil(len(known) * share))):
                    del known[key]
            excess = max(0, excess - size)

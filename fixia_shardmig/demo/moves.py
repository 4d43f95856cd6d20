"""How the demo's writers come from the one database to the shards and back.

With a PgBouncer they move to its three aliases first, which all are the one database, and never again: the cutover and
the rollback re-point them. Without one they are re-pointed by us, and meet the fence's error for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fixia_shardmig.demo.ledger import Entry
from fixia_shardmig.demo.writers import HomeOf, Writers


class Moves:
    """The writers change their URLs themselves, when they are told."""

    def __init__(self, writers: Writers, *, source_url: str, shard_urls: Mapping[str, str], home_of: HomeOf) -> None:
        """Keep the URLs of both sides; secrets."""
        self._writers = writers
        self._source_url = source_url
        self._shard_urls = shard_urls
        self._home_of = home_of

    @property
    def on_switched(self) -> Callable[[], Any] | None:
        """What to do when the shards have the writes."""
        return lambda: self._writers.move_to(self._shard_urls, home_of=self._home_of)

    @property
    def on_open(self) -> Callable[[], Any] | None:
        """What to do when the source has them again."""
        return lambda: self._writers.move_back(self._source_url)

    def split(self) -> str:
        """Do what comes before the cutover; returns what was done, for the story."""
        return ""

    def drained(self) -> None:
        """Take note that both sides are equal, before the shards get the writes."""

    def drained_back(self) -> None:
        """Take note of the same, before the source gets them back."""

    def ledger(self) -> list[Entry]:
        """Return what was written to the shards while they had the writes."""
        return self._writers.ledger()


class PooledMoves(Moves):
    """The writers use a pooler's aliases all the time; `shard_urls` are those.

    While both sides are equal the writers have waited for longer than they take to note a commit that was answered. So
    the ledger that begins then has all that the shards get, and nothing else.
    """

    _at_rollback: tuple[Entry, ...] = ()

    @property
    def on_switched(self) -> None:
        """Nothing: the cutover has re-pointed them."""
        return

    @property
    def on_open(self) -> None:
        """Nothing: the rollback has re-pointed them."""
        return

    def split(self) -> str:
        """Move to the aliases, each of which is the one database yet."""
        self._writers.move_to(self._shard_urls, home_of=self._home_of)
        return "the writers move to three aliases of a PgBouncer, which all are the one database"

    def drained(self) -> None:
        """Begin the ledger of what the shards get."""
        self._writers.begin_ledger(list(self._shard_urls))

    def drained_back(self) -> None:
        """End it."""
        self._at_rollback = tuple(self._writers.ledger())

    def ledger(self) -> list[Entry]:
        """Return what was written between the two."""
        return list(self._at_rollback)

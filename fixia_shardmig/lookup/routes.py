"""Which side holds the truth now, by the journal: the source before the switch, the shards after it.

Read by a small query of its own, not through the journal's room: that one is the operator's door, with a pinned
session that writes and locks, while an application wants three columns over its own pool and a role that may only
read them. What the two share is the table's name, and an integration test holds this against a real journal.
Refuses to guess: a journal that cannot be read is an error, even when it was read a moment ago.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from fixia_shardmig.lookup.places import Place
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.phase import Phase, Writer

ROUTE_TTL_S = 2.0
"""How late a process may learn of the switch. The side that is not the writer any more stays fenced, so a session that
goes there meanwhile can write nothing; it gets the fence's error, and tried again it finds the way."""

SHARDS_HOLD_TRUTH = frozenset({Phase.SWITCHED, Phase.ROLLING_BACK, Phase.FINALIZED})
"""While nobody may write, rows are still complete where they were written last: FENCED on the source, ROLLING_BACK on
the shards."""

_IS_THERE = sa.text("SELECT to_regclass('shardmig.migration') IS NOT NULL AS there")
_READ = sa.text("SELECT name, phase, routing_epoch FROM shardmig.migration")


@dataclass(frozen=True, slots=True)
class Route:
    """Where rows are read and written. `phase` is None where the caller said it, and no journal was asked."""

    side: Writer
    routing_epoch: int = 0
    phase: Phase | None = None

    @property
    def to_shards(self) -> bool:
        """Whether sessions go to the shards."""
        return self.side is Writer.SHARDS


class Routes:
    """The journal's word, kept for ROUTE_TTL_S."""

    def __init__(self, journal: Callable[[], Place], migration: str, *, ttl_s: float = ROUTE_TTL_S) -> None:
        """Keep whom to ask; asks nobody yet."""
        self._journal = journal
        self._migration = migration
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._known: Route | None = None
        self._until = 0.0

    def current(self) -> Route:
        """Return the route, read again when it is old; raises where the journal does not answer or is not there."""
        with self._lock:
            if self._known is None or time.monotonic() >= self._until:
                self._known = None
                self._known = self._read()
                self._until = time.monotonic() + self._ttl_s
            return self._known

    def forget(self) -> None:
        """Ask the journal next time."""
        with self._lock:
            self._known = None

    def _read(self) -> Route:
        place = self._journal()
        with place.question() as connection:
            there = connection.execute(_IS_THERE).scalar()
            row = connection.execute(_READ).fetchone() if there else None
        if row is None:
            raise RefusedError(
                f"{place.name} holds no journal, so nobody says where the rows of {self._migration!r} are",
                hint="say it: the writer is the source before a migration begins, the shards once they have it",
            )
        if row.name != self._migration:
            raise RefusedError(
                f"{place.name} holds the journal of migration {row.name!r}, not of {self._migration!r}",
                hint="use that migration's mapping, or correct the URL of the shard with the journal",
            )
        phase = Phase(row.phase)
        side = Writer.SHARDS if phase in SHARDS_HOLD_TRUTH else Writer.SOURCE
        return Route(side, row.routing_epoch, phase)

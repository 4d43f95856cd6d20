"""What the way back keeps: positions and contested rows on the source, the figures of its tail in the journal.

A row is contested when more than one shard's stream speaks of it and their order cannot be told: see
docs/explanation/way-back.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, LiteralString

from psycopg import errors
from psycopg.types.json import Jsonb

from fixia_shardmig.journal.journal import Journal, position, prepare_positions, set_position
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, scalar

APPLY_SETTING: Final = "shardmig.apply"
"""A session that has this set to the migration's name passes the fence: it brings the other side's writes."""

ContestedKey = tuple[TableName, tuple[str, ...]]
"""A table that holds rows, and a row's key as `placement.stream.comparable` gives it."""


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.journal", "way_back.sql", name)


@dataclass(frozen=True, slots=True)
class BackState:
    """What the tail of the way back last said of itself.

    Attributes:
        applied: Shard -> up to where its changes are on the source.
        seen: Shard -> the newest position its server has spoken of.
        contested: Rows that wait to be read again from the shards.
        missed: Changes that hit no row although they should have: somebody else writes to the source.
        blocked_by: Why contested rows cannot be brought back, which only people can resolve; empty when they can.
    """

    age_s: float
    applied: Mapping[str, LSN]
    seen: Mapping[str, LSN]
    transactions: int = 0
    changes: int = 0
    changes_per_s: float = 0.0
    contested: int = 0
    missed: int = 0
    blocked_by: str = ""
    stopped_by: str = ""

    @property
    def lag_bytes(self) -> Mapping[str, int]:
        """Return how much WAL of each shard is not on the source yet."""
        return {shard: max(0, self.seen[shard] - lsn) for shard, lsn in self.applied.items()}


@dataclass(slots=True)
class SourceBooks:
    """The tables of the way back on the source, over one session."""

    connection: Connection = field(repr=False)

    def prepare(self) -> None:
        """Make the tables, empty: where the streams begin is not known yet."""
        with self.connection.transaction():
            prepare_positions(self.connection)
            self.connection.execute(_query("on_the_source"))
            self.connection.execute("TRUNCATE shardmig.position, shardmig.contested")

    def drop(self) -> None:
        """Remove the tables, and our schema if nothing else of ours is in it."""
        self.connection.execute("DROP TABLE IF EXISTS shardmig.position, shardmig.contested")
        with suppress(errors.DependentObjectsStillExist):
            self.connection.execute("DROP SCHEMA IF EXISTS shardmig")

    def begin(self, positions: Mapping[str, LSN]) -> None:
        """Start anew, each shard's stream at its slot. Not on disk before the next commit there that is."""
        with self.connection.transaction():
            self.connection.execute("SET LOCAL synchronous_commit = off")
            for shard, lsn in positions.items():
                set_position(self.connection, lsn, shard)

    def positions(self, shards: Iterable[str]) -> dict[str, LSN | None]:
        """Return up to where each shard's stream is applied; None before the way back was prepared."""
        return {shard: position(self.connection, shard) for shard in shards}

    def standing(self) -> tuple[dict[str, LSN], int]:
        """Return up to where each shard's stream is applied and how many rows are contested, in one look."""
        rows = self.connection.execute(_query("standing"), prepare=True).fetchall()
        return {shard: LSN.parse(lsn) for shard, lsn, _ in rows if shard}, max(count for _, _, count in rows)

    def contested(self) -> list[ContestedKey]:
        """Return the contested rows."""
        rows = self.connection.execute(_query("contested")).fetchall()
        return [(TableName(schema, name), tuple(key)) for schema, name, key in rows]

    def contested_count(self) -> int:
        """Return how many rows are contested; 0 where the way back was never prepared."""
        if scalar(self.connection, "SELECT to_regclass('shardmig.contested')") is None:
            return 0
        return int(scalar(self.connection, _query("count_contested")))

    def add_contested(self, keys: Iterable[ContestedKey]) -> None:
        """Note contested rows in the caller's transaction."""
        self._each("add_contested", keys)

    def drop_contested(self, keys: Iterable[ContestedKey]) -> None:
        """Take rows off the list in the caller's transaction."""
        self._each("drop_contested", keys)

    def _each(self, name: str, keys: Iterable[ContestedKey]) -> None:
        rows = [(table.schema, table.name, list(key)) for table, key in keys]
        if rows:
            with self.connection.cursor() as cursor:
                cursor.executemany(_query(name), rows)


def tell_back_state(journal: Journal, state: BackState) -> None:
    """Publish the figures for status and for gates."""
    streams = {shard: [str(lsn), str(state.seen[shard])] for shard, lsn in state.applied.items()}
    journal.connection.execute(
        _query("tell_state"),
        (
            Jsonb(streams),
            state.transactions,
            state.changes,
            state.changes_per_s,
            state.contested,
            state.missed,
            state.blocked_by,
            state.stopped_by,
        ),
    )


def prepare_back_state(journal: Journal) -> None:
    """Make the tables of the figures and of a barrier's limits where there are none."""
    journal.connection.execute(_query("state_table"))
    journal.connection.execute(_query("limit_table"))


def back_state(journal: Journal) -> BackState | None:
    """Return what was told last, or None before the first."""
    if scalar(journal.connection, "SELECT to_regclass('shardmig.back_state')") is None:
        return None
    row = journal.connection.execute(_query("state")).fetchone()
    if row is None:
        return None
    applied = {shard: LSN.parse(pair[0]) for shard, pair in row[1].items()}
    seen = {shard: LSN.parse(pair[1]) for shard, pair in row[1].items()}
    return BackState(row[0], applied, seen, *row[2:])


def set_back_limits(journal: Journal, barrier_id: int, limits: Mapping[str, LSN]) -> None:
    """Tell the tail of the way back up to where it goes in each stream, and no further, under a barrier."""
    with journal.connection.transaction(), journal.connection.cursor() as cursor:
        cursor.executemany(_query("set_limit"), [(barrier_id, shard, str(lsn)) for shard, lsn in limits.items()])


def back_limits(journal: Journal, barrier_id: int) -> dict[str, LSN]:
    """Return a barrier's limits by shard, empty before they are known."""
    return {shard: LSN.parse(lsn) for shard, lsn in journal.connection.execute(_query("limits"), (barrier_id,))}

"""Rows of which several shards' streams speak in an order that nobody can tell, as when a user moved between shards.

Two servers' streams have no common order. What is applied of one key is right nevertheless as long as it is a history
that a row can have: put when it is not there, changed or removed when it is. The first change that finds the row
otherwise makes its key contested: from then on the streams' changes of it are left out, and the row is read from the
shards instead. It stops being contested when every stream has passed the moment of that reading without a change of
it. The argument is written out in docs/explanation/way-back.md (pitfall 67).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql

from fixia_shardmig.journal.way_back import ContestedKey, SourceBooks
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.placement.stream import Key, comparable
from fixia_shardmig.postgres.sessions import Connection, insert_lsn
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.tail import kernel, statements
from fixia_shardmig.tail.operations import DELETE, Operation
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.statements import put_kind
from fixia_shardmig.tail.tables import TailTable, TailTables
from fixia_shardmig.tail.tail import MARKER_PREFIX

KEYS_A_READ = 5_000
"""Rows read from a shard with one query."""

Values = tuple[str | None, ...]
Commit = Callable[[], None]


@dataclass(slots=True)
class _Reading:
    """A reading of the contested rows that streams have not passed yet.

    Attributes:
        touch: The last touch before it: keys touched later may have changed after it.
        passed_at: Shard -> the position by which everything that was read has come.
        doubled: Keys that were on more than one shard.
    """

    touch: int
    passed_at: Mapping[str, LSN]
    doubled: frozenset[ContestedKey]


class Contested:
    """The contested keys, as noted on the source, and when a stream last spoke of each."""

    def __init__(self, tables: TailTables, source: ShardSession, readers: Mapping[str, Connection]) -> None:
        """Take over what an earlier run has noted.

        Args:
            tables: The migration's.
            source: The session that applies.
            readers: One session on each shard, in autocommit.
        """
        self._tables = tables
        self._source = source
        self._readers = readers
        self._books = SourceBooks(source.connection)
        self._touch = 1
        self._keys: dict[ContestedKey, int] = {}
        self._unnoted: list[ContestedKey] = []
        self._uncommitted: list[ContestedKey] = []
        self._reading: _Reading | None = None
        self._doubled: tuple[frozenset[ContestedKey], frozenset[ContestedKey]] = (frozenset(), frozenset())
        self.reload()

    def __len__(self) -> int:
        """Return how many keys are contested."""
        return len(self._keys)

    def __contains__(self, key: ContestedKey) -> bool:
        """Whether a key is contested."""
        return key in self._keys

    @property
    def doubled(self) -> frozenset[ContestedKey]:
        """Return the keys that the last two readings found on more than one shard.

        One alone may have met a row on its way: read where it was, and again where it had come to.
        """
        return self._doubled[0] & self._doubled[1]

    def reload(self) -> None:
        """Start from what the source has noted, as after a batch that was rolled back; what it found stays contested.

        Any row may be contested at any time: it is only read again.
        """
        found = [*self._uncommitted, *self._unnoted]
        self._uncommitted, self._unnoted = [], []
        self._keys = dict.fromkeys(self._books.contested(), self._touch)
        for key in found:
            self.touch(key)
        self.note()
        self._source.connection.commit()
        self.committed()

    def committed(self) -> None:
        """Say that what was noted so far is durable."""
        self._uncommitted.clear()

    def touch(self, key: ContestedKey) -> None:
        """Say that a stream speaks of a key, which is contested from now on if it was not."""
        self._touch += 1
        if key not in self._keys:
            self._unnoted.append(key)
        self._keys[key] = self._touch

    def note(self) -> None:
        """Write the new ones down, in the transaction that leaves their changes out."""
        unnoted, self._unnoted = self._unnoted, []
        self._uncommitted += unnoted
        self._books.add_contested(unnoted)

    def _delete_all(self) -> None:
        for leaf, key in self._keys:
            self._source.add(leaf, Operation(DELETE, self._tables.by_leaf[leaf].own.columns, key))
        self._source.flush()
        self._source.missed.clear()  # a contested row may well not be there

    def clear(self, positions: Mapping[str, LSN], commit: Commit) -> None:
        """Take keys off whose reading every stream has passed without speaking of them."""
        reading = self._reading
        if reading is None or any(positions[shard] < lsn for shard, lsn in reading.passed_at.items()):
            return
        self._reading = None
        settled = [
            key for key, touched in self._keys.items() if touched <= reading.touch and key not in reading.doubled
        ]
        self._books.drop_contested(settled)
        commit()
        for key in settled:
            del self._keys[key]

    def settle(self, commit: Commit) -> None:
        """Make the contested rows what the shards have now.

        Raises psycopg.IntegrityError when such a row stands in the way of one that a stream is yet to change: later.
        """
        if not self._keys or self._reading is not None:
            return
        touch, doubled = self._touch, set[ContestedKey]()
        tables = {leaf: self._tables.by_leaf[leaf] for leaf, _ in self._keys}
        wanted = {leaf: [key for there, key in self._keys if there == leaf] for leaf in tables}
        found = {leaf: self._read(tables[leaf], keys, doubled) for leaf, keys in wanted.items()}
        passed_at = {shard: self._passed_at(reader) for shard, reader in self._readers.items()}
        self._delete_all()
        for leaf, rows in found.items():
            columns = tuple(column.name for column in tables[leaf].table.copied_columns)
            for row in rows.values():
                self._source.add(leaf, Operation(put_kind(tables[leaf].table), columns, row))
        self._source.flush()
        place("back.before_settled")
        commit()
        place("back.settled")
        self._reading = _Reading(touch, passed_at, frozenset(doubled))
        self._doubled = (self._doubled[1], self._reading.doubled)

    def _passed_at(self, reader: Connection) -> LSN:
        """Return a position behind everything that was read, and have the stream come past it."""
        lsn = insert_lsn(reader)
        emit_marker(reader, MARKER_PREFIX, b"settled")
        return lsn

    def _read(self, table: TailTable, keys: list[Key], doubled: set[ContestedKey]) -> dict[Key, Values]:
        found: dict[Key, Values] = {}
        for shard in self._tables.shard_map.shards_of(table.root):
            for start in range(0, len(keys), KEYS_A_READ):
                for key, row in read_rows(self._readers[shard], table, keys[start : start + KEYS_A_READ]):
                    if key in found:
                        doubled.add((table.leaf, key))
                    found[key] = row
        return found


def read_rows(reader: Connection, table: TailTable, keys: Iterable[Key]) -> list[tuple[Key, Values]]:
    """Return whole rows by their keys, each value in its type's own output."""
    own = tuple(column for name in table.own.columns if (column := table.table.column(name)))
    query = sql.SQL("SELECT r.* FROM {} CROSS JOIN LATERAL (SELECT {} FROM {} AS t WHERE {}) AS r").format(
        statements.wanted_keys(own),
        statements.whole_row(table.table),
        statements.target(table.table),
        statements.matches_wanted("t", own),
    )
    names = [column.name for column in table.table.copied_columns]
    places = [(names.index(column.name), column) for column in own]
    rows = reader.execute(query, kernel.arrays(list(keys), len(own))).fetchall()
    return [(tuple(comparable(column, row[at]) for at, column in places), row) for row in rows]

"""`verify`: holds every shard against the rows of the source whose home it is, at one LSN.

The caller has made the moment: a snapshot of the source at the LSN, and one of each shard that stands exactly there.
Here each table is scanned once a side into digests by bucket, several scans at a time, the largest first; the rows of
buckets that differ are read and told apart one by one. Nothing is written anywhere. Memory is bounded by `BUCKETS_MAX`,
`BUCKET_ROWS_MAX` and `NAMED_MAX`.

Refuses what it cannot answer for: a definition that changed, a table or column that a shard lacks, a row without a
home, a role that may not see every row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from psycopg import sql
from psycopg.rows import TupleRow

from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import scalar
from fixia_shardmig.verify.canonical import NATIVE_PROBE, PROBE, HashForm
from fixia_shardmig.verify.comparison import (
    Differences,
    Names,
    Row,
    compare_rows,
)
from fixia_shardmig.verify.homes import HomeSql, home_sql, together_sql
from fixia_shardmig.verify.layouts import check_definitions, chosen_tables, layout_of
from fixia_shardmig.verify.local import local_sql, local_tables, strays_query
from fixia_shardmig.verify.objects import compare_objects, compare_sequences
from fixia_shardmig.verify.queries import Layout, on_shard, rows_query
from fixia_shardmig.verify.references import (
    ReferencePath,
    count_dangling,
    count_dangling_across,
    reference_paths,
)
from fixia_shardmig.verify.result import ReferenceResult, SequenceResult, TableResult, VerifyResult
from fixia_shardmig.verify.scans import Pacing, Progress, Scanned, Scans, Side
from fixia_shardmig.verify.snapshots import SnapshotRef, SnapshotSessions
from fixia_shardmig.verify.workers import Workers

SOURCE = "source"

FULL_SPEED = Pacing()

BUCKET_ROWS_MAX = 1_000_000
"""Rows of one bucket held at once, on all sides together: about 500 MB. Only statistics that are far off lead there."""

FETCH_ROWS = 5_000
"""Rows of differing buckets fetched at a time."""


def verify(  # noqa: PLR0913  one call with names is clearer than an object of options
    shard_map: ShardMap,
    catalog: Catalog,
    *,
    source: SnapshotRef,
    shards: Mapping[str, SnapshotRef],
    at_lsn: LSN,
    jobs: int = 2,
    tables: Collection[TableName] | None = None,
    kept: Mapping[TableName, tuple[TableResult, ...]] | None = None,
    pacing: Pacing = FULL_SPEED,
    on_progress: Callable[[Progress], None] | None = None,
    on_compared: Callable[[tuple[TableResult, ...]], None] | None = None,
    stop: threading.Event | None = None,
) -> VerifyResult:
    """Compare the source with the shards.

    Args:
        shard_map: Where rows belong.
        catalog: The source's catalog of the plan; a definition that differs from it now is refused.
        source: The source at `at_lsn`.
        shards: Every shard of the mapping at `at_lsn`.
        at_lsn: The moment that is compared; only reported.
        jobs: Scans at a time, over all servers.
        tables: Only these, for a second look; else all that are moved.
        kept: What was found of tables earlier in the same pass; they are not read again.
        pacing: How fast tables are read, and until when one is begun; what was not begun is `left` in the result.
        on_progress: Told after each scan, from the scanning thread.
        on_compared: Told of each table as soon as its digests are compared, from one thread at a time.
        stop: Set it to end early with StoppedError.

    Raises:
        RefusedError: Something cannot be compared; the message says what to do.
        TemporaryError: A server went away; run it again.
        StoppedError: `stop` was set.
    """
    started = time.monotonic()
    chosen = chosen_tables(shard_map, tables)
    with ExitStack() as stack:
        sessions = {SOURCE: stack.enter_context(SnapshotSessions(source, SOURCE))}
        for shard in shard_map.shard_names:
            sessions[shard] = stack.enter_context(SnapshotSessions(shards[shard], shard))
        workers = Workers(jobs, stop or threading.Event(), partial(_cancel, sessions.values()))
        sides = _sides(sessions, workers)
        check_definitions(catalog, sides[SOURCE].catalog, chosen)
        for side in sides.values():
            side.sessions.look_in(schema for _, _, schema in side.catalog.extensions)
        comparison = _Comparison(shard_map, sides, workers, at_lsn)
        comparison.listen(on_progress, on_compared)
        return comparison.run(chosen, kept or {}, pacing, started)


def _cancel(sessions: Iterable[SnapshotSessions]) -> None:
    for pool in sessions:
        pool.cancel()


def _sides(sessions: Mapping[str, SnapshotSessions], workers: Workers) -> dict[str, Side]:
    """Read every side's catalog inside its snapshot."""

    def read(pool: SnapshotSessions) -> Catalog:
        with pool.session("reading the catalog") as connection:
            return read_catalog(connection)

    catalogs = workers.run([partial(read, pool) for pool in sessions.values()])
    numbers = [None, *range(len(sessions) - 1)]
    return {
        name: Side(name, number, sessions[name], catalog)
        for name, number, catalog in zip(sessions, numbers, catalogs, strict=True)
    }


class _Comparison:
    """One run over all sides."""

    def __init__(self, shard_map: ShardMap, sides: Mapping[str, Side], workers: Workers, at_lsn: LSN) -> None:
        self._shard_map = shard_map
        self._source = sides[SOURCE]
        self._shards = {name: side for name, side in sides.items() if name != SOURCE}
        self._shard_catalogs = {name: side.catalog for name, side in self._shards.items()}
        self._workers = workers
        self._at_lsn = at_lsn
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self._on_compared: Callable[[tuple[TableResult, ...]], None] = lambda _: None

    def listen(
        self,
        on_progress: Callable[[Progress], None] | None,
        on_compared: Callable[[tuple[TableResult, ...]], None] | None,
    ) -> None:
        """Tell somebody how it goes."""
        self._on_progress = on_progress or self._on_progress
        self._on_compared = on_compared or self._on_compared

    def run(
        self,
        tables: frozenset[TableName],
        kept: Mapping[TableName, tuple[TableResult, ...]],
        pacing: Pacing,
        started: float,
    ) -> VerifyResult:
        """Scan, tell differing rows apart, count references, look at sequences and names."""
        form = self._hash_form()
        layouts = [
            layout_of(name, self._shard_map, self._source.catalog, self._shard_catalogs, form)
            for name in self._in_order(tables - kept.keys())
        ]
        local = self._local(tables - kept.keys(), pacing)
        scanned = self._scan(layouts, pacing, local)
        tasks = [partial(self._differences, table) for table in scanned]
        differences = dict(zip((table.layout.table for table in scanned), self._workers.run(tasks), strict=True))
        left = tables - kept.keys() - differences.keys()
        equal = {name for name, found in differences.items() if not found.total}
        now = tuple(entry for table in scanned for entry in self._table_results(table, differences[table.layout.table]))
        return VerifyResult(
            at_lsn=self._at_lsn,
            hash_form=form.value,
            tables=(*(entry for entries in kept.values() for entry in entries), *now),
            differences=tuple(one for _, found in sorted(differences.items()) for one in found.named),
            differences_total=sum(found.total for found in differences.values()),
            references=() if left else self._references(tables, equal, local),
            sequences=() if left else self._workers.run([partial(self._sequences, tables)])[0],
            objects=tuple(compare_objects(self._shard_map, self._source.catalog, self._shard_catalogs, tables)),
            seconds=time.monotonic() - started,
            left=frozenset(left),
        )

    def _sequences(self, tables: frozenset[TableName]) -> tuple[SequenceResult, ...]:
        sessions = {name: side.sessions for name, side in self._shards.items()}
        return tuple(compare_sequences(sessions, self._source.catalog, self._shard_catalogs, tables))

    def _hash_form(self) -> HashForm:
        """Return the fastest form of which all servers can be believed to hash alike; see `canonical`."""
        sides = (self._source, *self._shards.values())
        if len({side.catalog.encoding for side in sides}) > 1:
            return HashForm.STABLE

        def ask(side: Side) -> tuple[object, object]:
            with side.sessions.session("asking for sample hashes") as connection:
                return scalar(connection, PROBE), scalar(connection, NATIVE_PROBE)

        texts, natives = zip(*self._workers.run([partial(ask, side) for side in sides]), strict=True)
        if len(set(texts)) > 1:
            return HashForm.STABLE
        return HashForm.FAST if len(set(natives)) > 1 else HashForm.NATIVE

    def _in_order(self, tables: frozenset[TableName]) -> list[TableName]:
        """Return the largest first, so that all workers have something to do until the end."""
        catalog = self._source.catalog
        return sorted(tables, key=lambda name: (-sum(leaf.size_bytes for leaf in catalog.leaves(name)), name))

    def _local(self, tables: frozenset[TableName], pacing: Pacing) -> Mapping[TableName, frozenset[TableName]]:
        """Return the tables of which the shards can say who is at home; none where what they follow may be left out."""
        if pacing.until_s is not None:
            return {}
        return local_tables(self._shard_map, [self._source.catalog, *self._shard_catalogs.values()], tables)

    def _sides_of(self, table: TableName) -> list[Side]:
        """Return every side that has a table, also shards on which none of its rows should be."""
        return [side for side in (self._source, *self._shards.values()) if table in side.catalog.tables]

    def _rows_on(self, side: Side, table: TableName, together: bool) -> HomeSql:  # noqa: FBT001  as Scans asks
        if side.number is not None:
            if together:
                return local_sql(self._shard_map, side.catalog, table, side.number)
            return on_shard(side.catalog.tables[table], side.number)
        return together_sql(side.catalog, table) if together else home_sql(self._shard_map, side.catalog, table)

    def _strays_on(self, side: Side, table: TableName) -> sql.Composed | None:
        return None if side.number is None else strays_query(self._shard_map, side.catalog, table)

    # --- scans ---

    def _scan(
        self, layouts: list[Layout], pacing: Pacing, local: Mapping[TableName, frozenset[TableName]]
    ) -> list[Scanned]:
        scans = Scans(
            self._workers,
            rows_on=self._rows_on,
            strays_on=self._strays_on,
            pacing=pacing,
            on_progress=self._on_progress,
            on_scanned=self._tell_compared,
        )
        return scans.run([(layout, self._sides_of(layout.table)) for layout in layouts], local)

    def _tell_compared(self, scanned: Scanned) -> None:
        self._on_compared(tuple(self._table_results(scanned, Differences())))

    # --- rows ---

    def _differences(self, scanned: Scanned) -> Differences:
        """Read the buckets that differ, all sides side by side in the order of buckets, and compare their rows."""
        found = Differences()
        layout = scanned.layout
        buckets = list(scanned.buckets)
        if not buckets:
            return found
        _check_size(scanned)
        with ExitStack() as stack:
            readers = {
                side.number: stack.enter_context(self._reader(layout, side, buckets))
                for side in self._sides_of(layout.table)
            }
            source = readers.pop(None)
            for bucket in buckets:
                self._workers.check()
                rows = {number: reader.take(bucket) for number, reader in readers.items() if number is not None}
                before = found.total
                for difference in compare_rows(self._names(layout), source.take(bucket), rows):
                    found.add(difference)
                if found.total == before:
                    raise ShardmigError(
                        f"{layout.table}: bucket {bucket} differs but none of its rows does",
                        hint="this is a defect of shardmig: please report it with both servers' versions",
                    )
        return found

    @contextmanager
    def _reader(self, layout: Layout, side: Side, buckets: list[int]) -> Iterator[_BucketReader]:
        query = rows_query(layout, self._rows_on(side, layout.table, together=False), buckets)
        with (
            side.sessions.session(f"reading differing rows of {layout.table}") as connection,
            connection.cursor(name="differing") as cursor,
        ):
            cursor.itersize = FETCH_ROWS
            cursor.execute(query)
            yield _BucketReader(cursor)

    def _names(self, layout: Layout) -> Names:
        return Names(
            layout.table,
            tuple(field.name for field in layout.key),
            tuple(field.name for field in layout.fields),
            self._shard_map.shard_names,
        )

    def _table_results(self, scanned: Scanned, differences: Differences) -> Iterator[TableResult]:
        for number, (source_rows, target_rows, equal) in scanned.rows.items():
            shard = self._shard_map.shard_names[number]
            counts: dict[str, int] = {kind: n for (where, kind), n in differences.counts.items() if where == shard}
            yield TableResult(
                table=scanned.layout.table,
                shard=shard,
                source_rows=source_rows,
                target_rows=target_rows,
                equal=equal,
                differences=counts,
                seconds=scanned.seconds,
                at_lsn=self._at_lsn,
            )

    # --- references ---

    def _references(
        self, tables: frozenset[TableName], equal: set[TableName], local: Collection[TableName]
    ) -> tuple[ReferenceResult, ...]:
        paths = reference_paths(self._shard_map, self._source.catalog, tables)
        return tuple(self._workers.run([partial(self._reference, path, equal, local) for path in paths]))

    def _reference(self, path: ReferencePath, equal: set[TableName], local: Collection[TableName]) -> ReferenceResult:
        implied = path.table in equal and path.references in equal
        if implied and path.table in local and path.decides_alone(self._shard_map):
            return ReferenceResult(
                path.table, path.columns, path.references, path.constraint, 0, 0, implied=True
            )  # each row stands beside the one that it refers to, on all shards and so on the source
        with self._source.sessions.session(f"counting the references of {path.table}") as connection:
            on_source = count_dangling(connection, self._source.catalog, path)
        sessions = {name: side.sessions for name, side in self._shards.items()}
        on_shards = on_source if implied else count_dangling_across(sessions, self._shard_catalogs, path)
        return ReferenceResult(
            path.table, path.columns, path.references, path.constraint, on_source, on_shards, implied=implied
        )


class _BucketReader:
    """Rows that come in the order of their buckets, taken a bucket at a time."""

    def __init__(self, rows: Iterable[TupleRow]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)

    def take(self, bucket: int) -> list[Row]:
        taken: list[Row] = []
        while self._next is not None and self._next[0] == bucket:
            _, home, key, columns, copies, shown = self._next
            taken.append(Row(home, tuple(key), columns, copies, shown))
            self._next = next(self._rows, None)
        return taken


def _check_size(scanned: Scanned) -> None:
    """Refuse a bucket that would not fit into memory. Equal rows of a table without a key are read as one."""
    if scanned.layout.key and scanned.bucket_rows_max > BUCKET_ROWS_MAX:
        raise ShardmigError(
            f"{scanned.layout.table} differs, and {scanned.bucket_rows_max} rows are too many to tell apart at once",
            hint=f"ANALYZE {scanned.layout.table} on the source, then run: shardmig verify",
        )

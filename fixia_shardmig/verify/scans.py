"""Scans every table once a side into digests, in block ranges, several at a time, and compares a table when all is in.

A table is one bucket then: neither its keys' hashes nor groups are needed to see that it is equal, which saves a
quarter of the scan. Nor is the source asked for the rows' homes where the shards can say who is at home (`local`): the
source is held against all of them together. A table that differs, or follows one that does, is scanned again, by homes
and buckets, so that few of its rows have to be told apart.

Small tables are one range. A large one is several: they are read by several workers, a rate can be kept between them,
and what has been read of it can be told. Their digests add up to the table's. What a table's digests were is forgotten
once they are compared, so that memory is that of the tables in hand.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from psycopg import sql

from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import UnroutableError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.throttle import Bucket, Verdict
from fixia_shardmig.verify.comparison import Digest, Digests, combined, differing_buckets, expected_on
from fixia_shardmig.verify.homes import TOGETHER, HomeSql
from fixia_shardmig.verify.queries import BUCKET_ROWS, Layout, PageRange, digest_query
from fixia_shardmig.verify.snapshots import SnapshotSessions
from fixia_shardmig.verify.workers import POLL_S, Workers

RANGE_BYTES = 1 << 30
"""Of a table read in one query. A join that finds the rows' homes is made anew for each."""

RANGE_BYTES_MIN = 8 << 20
RANGE_S = 2.0
"""With a rate, a range is what may be read in this time, but not less than the bytes above."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One range came to its end: the `done`-th of `total`, of a table on a side (`source` or a shard).

    `rows` and `size_bytes` are those of all ranges so far, `total_bytes` is what there is to read in all.
    """

    done: int
    total: int
    table: TableName
    side: str
    rows: int
    size_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Side:
    """One database: its number among the shards (None for the source), its sessions and its catalog."""

    name: str
    number: int | None
    sessions: SnapshotSessions
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class Pacing:
    """How a comparison is held back: bytes a second over all workers, and after when no table is begun any more.

    `verdict` says between two ranges whether to go on, at which rate, and how many at a time.
    """

    rate_bytes_per_s: int | None = None
    until_s: float | None = None
    verdict: Callable[[], Verdict] | None = None


@dataclass(frozen=True, slots=True)
class Scanned:
    """One table, read on all sides and compared by digests.

    Attributes:
        rows: By a shard's number the source's rows whose home it is, its own rows, and whether the digests are equal.
        buckets: Those that differ, in order; `bucket_rows_max` is how many rows the largest of them has on all sides.
        seconds: The time of all its scans.
    """

    layout: Layout
    rows: Mapping[int, tuple[int, int, bool]]
    buckets: tuple[int, ...]
    bucket_rows_max: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One range of one table on one side; with `strays` the query that counts those of the whole table."""

    layout: Layout
    side: Side
    together: bool
    pages: PageRange | None
    size_bytes: int
    strays: sql.Composed | None = None


@dataclass(slots=True)
class _Reading:
    """What has come in of one table."""

    left: int
    digests: dict[int | None, Digests] = field(default_factory=dict)
    strays: int = 0
    joined: dict[int | None, int] = field(default_factory=dict)
    seconds: float = 0.0


class Scans:
    """All scans of one comparison."""

    def __init__(
        self,
        workers: Workers,
        *,
        rows_on: Callable[[Side, TableName, bool], HomeSql],
        strays_on: Callable[[Side, TableName], sql.Composed | None],
        pacing: Pacing,
        on_progress: Callable[[Progress], None],
        on_scanned: Callable[[Scanned], None],
    ) -> None:
        """Read nothing yet.

        Args:
            workers: Who reads.
            rows_on: How a table is read on a side; the third argument says whether the shards tell who is at home.
            strays_on: The query for how many rows of a shard's table are not at home there, where that is asked apart.
            pacing: How fast.
            on_progress: Told of each range that was read.
            on_scanned: Told of each table as soon as it is through, from one thread at a time.
        """
        self._workers = workers
        self._rows_on = rows_on
        self._strays_on = strays_on
        self._pacing = pacing
        self._on_progress = on_progress
        self._on_scanned = on_scanned
        self._lock = threading.Lock()
        self._bucket = Bucket(time.monotonic(), pacing.rate_bytes_per_s)
        self._reading: dict[TableName, _Reading] = {}
        self._begun: set[TableName] = set()
        self._followed: Mapping[TableName, frozenset[TableName]] = {}
        self._waiting: dict[TableName, Scanned] = {}
        self._settled: set[TableName] = set()
        self._running = 0
        self._done = self._total = self._rows = self._bytes = self._total_bytes = 0

    def run(
        self, work: Sequence[tuple[Layout, Sequence[Side]]], local: Mapping[TableName, frozenset[TableName]]
    ) -> list[Scanned]:
        """Read tables, each on its sides, and return those that were begun in time, in their order.

        Of the tables in `local`, each with those that it follows, the shards can say which rows are at home.
        """
        self._followed = local
        whole = self._scan([(replace(layout, buckets=1), sides) for layout, sides in work], first=True)
        layouts = {layout.table: (layout, sides) for layout, sides in work}
        again = [layouts[one.layout.table] for one in whole if self._is_undecided(one)]
        decided = {scanned.layout.table: scanned for scanned in self._scan(again, first=False)}
        return [_both(scanned, decided.get(scanned.layout.table)) for scanned in whole]

    def _is_undecided(self, whole: Scanned) -> bool:
        table = whole.layout.table
        if table in self._followed:
            return table not in self._settled
        return bool(whole.buckets) and whole.bucket_rows_max > BUCKET_ROWS

    def _scan(self, work: Sequence[tuple[Layout, Sequence[Side]]], *, first: bool) -> list[Scanned]:
        parts = [part for layout, sides in work for side in sides for part in self._parts(layout, side, first=first)]
        parts += [part for layout, sides in work for side in sides if first for part in self._stray_parts(layout, side)]
        parts.sort(
            key=lambda part: -part.size_bytes
        )  # the largest first: all workers have something to do until the end
        for part in parts:
            self._reading.setdefault(part.layout.table, _Reading(0)).left += 1
        self._total += len(parts)
        self._total_bytes += sum(part.size_bytes for part in parts)
        found = self._workers.run([partial(self._read, part, first=first) for part in parts])
        return [scanned for scanned in found if scanned]

    def _parts(self, layout: Layout, side: Side, *, first: bool) -> list[_Part]:
        together = first and layout.table in self._followed
        leaves = side.catalog.leaves(layout.table)
        size_bytes, pages = sum(leaf.size_bytes for leaf in leaves), max((leaf.pages for leaf in leaves), default=0)
        rate = self._pacing.rate_bytes_per_s
        wanted = RANGE_BYTES if rate is None else min(max(int(rate * RANGE_S), RANGE_BYTES_MIN), RANGE_BYTES)
        count = min(-(-size_bytes // wanted), pages)
        if count <= 1:
            return [_Part(layout, side, together, None, size_bytes)]
        starts = [pages * number // count for number in range(count)]
        ends = [*starts[1:], None]
        ranges = [PageRange(first, end) for first, end in zip(starts, ends, strict=True)]
        return [_Part(layout, side, together, pages, size_bytes // count) for pages in ranges]

    def _stray_parts(self, layout: Layout, side: Side) -> list[_Part]:
        query = self._strays_on(side, layout.table) if layout.table in self._followed else None
        if query is None:
            return []
        size_bytes = sum(leaf.size_bytes for leaf in side.catalog.leaves(layout.table))
        return [_Part(layout, side, together=True, pages=None, size_bytes=size_bytes, strays=query)]

    def _read(self, part: _Part, *, first: bool) -> Scanned | None:
        """Read one range; returns its table once all of it is read."""
        table, side = part.layout.table, part.side
        self._wait(0, begin=False)  # a pause may last so long that the table is late
        if self._is_late(table):
            return None
        self._wait(part.size_bytes, begin=True)
        started = time.monotonic()
        query = part.strays or digest_query(part.layout, self._rows_on(side, table, part.together), part.pages)
        try:
            with side.sessions.session(f"reading {table}") as connection:
                rows = connection.execute(query).fetchall()
        finally:
            with self._lock:
                self._running -= 1
        if part.strays:
            return self._counted(part, {}, rows[0][1], started, first=first, joined=rows[0][0])
        homeless = sum(row[2] for row in rows if row[0] is None)
        if homeless:
            raise UnroutableError(
                f"{table}: {homeless} rows of the source have no home under the mapping",
                hint=f"add `otherwise: <shard>` or the missing value to {table}, then run: shardmig plan",
            )
        digests = {(home, bucket): Digest(count, total_, xor) for home, bucket, count, total_, xor, _ in rows}
        return self._counted(part, digests, sum(row[5] for row in rows), started, first=first)

    def _counted(
        self, part: _Part, digests: Digests, strays: int, started: float, *, first: bool, joined: int | None = None
    ) -> Scanned | None:
        """Add what was read to the table's, tell of it, and return the table once all of it is read."""
        seconds = time.monotonic() - started
        with self._lock:
            self._done += 1
            self._rows += sum(digest.count for digest in digests.values())
            self._bytes += part.size_bytes
            told = (
                self._done,
                self._total,
                part.layout.table,
                part.side.name,
                self._rows,
                self._bytes,
                self._total_bytes,
            )
            self._on_progress(Progress(*told))
            scanned = self._take(part, digests, strays, seconds, joined)
            if scanned and first:
                self._tell(scanned)
            return scanned

    def _tell(self, scanned: Scanned) -> None:
        """Tell of a table and of those that waited for it. What differs is told at once."""
        if scanned.layout.table not in self._followed or scanned.buckets:
            self._on_scanned(scanned)
            return
        self._waiting[scanned.layout.table] = scanned
        while ready := [table for table in self._waiting if self._followed[table] <= self._settled]:
            for table in ready:
                self._settled.add(table)
                self._on_scanned(self._waiting.pop(table))

    def _take(self, part: _Part, digests: Digests, strays: int, seconds: float, joined: int | None) -> Scanned | None:
        reading = self._reading[part.layout.table]
        if joined is not None:
            reading.joined[part.side.number] = joined
        known = reading.digests.get(part.side.number)
        reading.digests[part.side.number] = combined(known, digests) if known else digests
        reading.seconds += seconds
        reading.strays += strays
        reading.left -= 1
        if reading.left:
            return None
        del self._reading[part.layout.table]
        return (_compared_together if part.together else _compared)(part.layout, reading)

    def _is_late(self, table: TableName) -> bool:
        """Whether a table is not begun any more; the first one always is, so that there is an end to it."""
        with self._lock:
            late = self._pacing.until_s is not None and time.monotonic() > self._pacing.until_s
            if table not in self._begun and late and self._begun:
                return True
            self._begun.add(table)
            return False

    def _wait(self, size_bytes: int, *, begin: bool) -> None:
        """Wait for leave and until what was read so far is paid for, then take this range's bytes on credit.

        What begins a scan also waits for its turn, where fewer are asked for than there are workers.
        """
        while True:
            self._workers.check()
            verdict = self._pacing.verdict() if self._pacing.verdict else None
            with self._lock:
                now_s = time.monotonic()
                if verdict:
                    self._bucket.set_rate(now_s, verdict.rate_bytes_per_s)
                full = begin and verdict and verdict.jobs is not None and self._running >= verdict.jobs
                wait_s = POLL_S if full or (verdict and verdict.held) else self._bucket.wait_s(now_s)
                if wait_s <= 0:
                    self._bucket.spend(now_s, size_bytes)
                    self._running += begin
                    return
            time.sleep(min(wait_s, POLL_S))


def _both(whole: Scanned, again: Scanned | None) -> Scanned:
    """Return what is known of a table that was scanned once, or again by homes and buckets."""
    return replace(again, seconds=whole.seconds + again.seconds) if again else whole


def _compared_together(layout: Layout, reading: _Reading) -> Scanned:
    """Hold all shards' digests, taken together, against the source's, and see that no row is a stray."""
    source = reading.digests[None]
    shards = {number: digests for number, digests in reading.digests.items() if number is not None}
    union: dict[tuple[int, int], Digest] = {}
    for digests in shards.values():
        of_all = {(TOGETHER, bucket): digest for (_, bucket), digest in digests.items()}
        union = dict(combined(union, of_all))
    counts = {number: sum(digest.count for digest in digests.values()) for number, digests in shards.items()}
    all_joined = all(counts[number] == joined for number, joined in reading.joined.items() if number is not None)
    equal = union == source and all_joined and not reading.strays
    rows = {number: (count, count, equal) for number, count in counts.items()}
    return Scanned(layout, rows, () if equal else (0,), sum(counts.values()), reading.seconds)


def _compared(layout: Layout, reading: _Reading) -> Scanned:
    """Hold each shard's digests against the source's."""
    source = reading.digests[None]
    shards = {number: digests for number, digests in reading.digests.items() if number is not None}
    rows: dict[int, tuple[int, int, bool]] = {}
    for number, digests in shards.items():
        expected = expected_on(number, source)
        actual = {bucket: digest for (_, bucket), digest in digests.items()}
        rows[number] = (_count(expected), _count(actual), expected == actual)
    buckets = differing_buckets(source, shards)
    largest: dict[int, int] = defaultdict(int)
    for digests in reading.digests.values() if buckets else ():
        for (_, bucket), digest in digests.items():
            largest[bucket] += digest.count
    most = max((largest[bucket] for bucket in buckets), default=0)
    return Scanned(layout, rows, tuple(sorted(buckets)), most, reading.seconds)


def _count(digests: Mapping[int, Digest]) -> int:
    return sum(digest.count for digest in digests.values())

"""One migration in memory: the model's source and slot, databases for the shards, and the product's tail between them.

`seams` says exactly what of the tail room is replaced: the connections, the socket and the clock. Everything between a
transaction that comes in and a statement that goes out is the product's own code.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import psycopg

from fixia_shardmig.copy import statements
from fixia_shardmig.copy.worker import ShardWrite
from fixia_shardmig.journal.journal import set_position
from fixia_shardmig.journal.records import Chunk, Migration, SnapshotEpoch
from fixia_shardmig.model.errors import ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.transactions import Item, TransactionReader
from fixia_shardmig.tail import batches, bulk, kernel, locations, record, router, settle, shards, tail
from fixia_shardmig.tail.tail import SETTLED, Tail
from tests.model.databases import Session, take_database
from tests.model.source import CATALOG, COLUMNS, KEYLESS, SHARD_MAP, SHARDS, Source, Tables, home, placed

BLOCKS = 2
TAKES_MAX = 1000
"""Beyond so many reads of a stream that has nothing more, the tail goes in a circle."""

CLOCK_STEP_S = 0.05
AGES = timedelta(days=36_500)

SMALL = {
    router: ("WINDOW_CHANGES", "FLUSH_OPERATIONS", "PLAIN_WINDOW_CHANGES", "PLAIN_FLUSH_OPERATIONS"),
    settle: ("READ_KEYS", "STEP_ROWS", "MOVED_BYTES"),
    record: ("PART_CHANGES",),
    locations: ("ENTRIES_MAX",),
    tail: ("AHEAD_CHANGES",),
}

Crash = tuple[str, int, bool]
"""Where, the how-manieth time in a run, and whether after it. The places are the shards' commits, those of them that
bring all rows home, the journal's record, its parts, their end, the evidence of being settled, the acknowledgement."""


class Lost(AssertionError):  # noqa: N818  a verdict
    """The model's judgement: a row, a position or an acknowledgement is not what it has to be."""


@dataclass
class ModelJournal:
    """What the tail reads and writes of the journal; each write that decides something can be where it dies."""

    world: World
    url: str = "postgresql:///west"
    record: tuple[LSN, LSN, bytes] | None = None
    parts: dict[int, bytes] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    done: list[Chunk] = field(default_factory=list)
    opened: list[SnapshotEpoch] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    connection: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(broken=False))

    def write_batch_record(self, start: LSN, end: LSN, decisions: bytes) -> None:
        """Commit a batch record."""
        with self.world.durable("journal", self.connection):
            self.record = (start, end, decisions)

    def write_batch_part(self, number: int, decisions: bytes) -> None:
        """Commit a part of the record to come."""
        with self.world.durable("part", self.connection):
            self.parts[number] = decisions

    def batch_part(self, number: int) -> bytes:
        """Return a part of the record."""
        return self.parts[number]

    def drop_batch_parts(self) -> None:
        """Forget the parts of a record that is done with."""
        with self.world.durable("drop", self.connection):
            self.parts.clear()

    def batch_record(self) -> tuple[LSN, LSN, bytes] | None:
        """Return the last one."""
        return self.record

    def add_evidence(self, evidence: dict[str, Any]) -> None:
        """Commit that the shards are settled."""
        with self.world.durable("settled", self.connection):
            self.evidence |= evidence

    def epochs(self) -> list[SnapshotEpoch]:
        """Return the snapshots of the copy."""
        return self.opened

    def chunks(self) -> list[Chunk]:
        """Return the copied chunks."""
        return self.done

    def barrier(self) -> None:
        """Say that nobody asks for a barrier."""

    def get(self) -> Migration:
        """Return the migration's row."""
        return Migration(
            name="model",
            created_at=datetime.now(tz=UTC),
            phase=Phase.TAILING,
            routing_epoch=0,
            mapping_fingerprint="",
            catalog_fingerprint=CATALOG.fingerprint(SHARD_MAP.moved()),
            source_system="1",
            source_database="source",
            source_timeline=1,
            shard_names=SHARDS,
            slot="model",
            publication="model",
            slot_lsn=self.opened[0].lsn,
            consistent_lsn=self.opened[-1].lsn,
            schema_stage="done",
            evidence=dict(self.evidence),
        )

    def event(self, event: str, **_: object) -> None:
        """Count an event."""
        self.events[event] += 1

    def tell_tail_state(self, _: object) -> None:
        """Let nobody know."""


class ModelStream:
    """The slot's stream from a position: whole transactions in portions, and keepalives between them."""

    def __init__(self, world: World, *, start: LSN) -> None:
        """Start sending, as the server does: nothing that committed below what is acknowledged or asked for."""
        if start < world.confirmed:
            raise Lost(f"the slot is acknowledged up to {world.confirmed}, a shard stands at {start} only")
        self._world = world
        self._unsent = [past for past in world.source.committed if past.messages and past.commit_lsn >= start]
        self._portions = list(world.portions)
        self._takes = 0
        self._gave = False

    @property
    def server_lsn(self) -> LSN:
        """Return the newest position."""
        return self._world.source.now

    def acknowledge(self, lsn: LSN) -> None:
        """Take an acknowledgement; beyond what every shard has on disk it is the end of a row."""
        with self._world.durable("acknowledge"):
            durable = min(database.position() for database in self._world.databases.values())
            if lsn > durable:
                raise Lost(f"acknowledged {lsn}, and a shard has {LSN(durable)} only")
            self._world.confirmed = max(self._world.confirmed, lsn)

    def frames(self) -> list[tuple[int, bytes]]:
        """Return the next portion with a keepalive behind it; nothing every other time, which ends a batch."""
        self._takes += 1
        if self._takes > TAKES_MAX:
            raise Lost("the tail reads on and on without getting anywhere")
        self._gave = not self._gave
        if not self._gave:
            return []
        size = self._portions.pop(0) if self._portions else len(self._unsent)
        sent, self._unsent = self._unsent[:size], self._unsent[size:]
        keepalive = sent[-1].end_lsn if sent and self._unsent else self._world.source.now
        if not sent and self._unsent:
            return []
        return [frame for past in sent for frame in past.frames()] + [(keepalive, b"")]


class ModelReceiver:
    """The product's transaction reader behind a stream, without the thread."""

    def __init__(self, stream: ModelStream, reader: TransactionReader) -> None:
        """Take both."""
        self._stream = stream
        self._reader = reader

    @property
    def server_lsn(self) -> LSN:
        """Return the newest position."""
        return self._stream.server_lsn

    def acknowledge(self, lsn: LSN) -> None:
        """Pass an acknowledgement on."""
        self._stream.acknowledge(lsn)

    def take(self, _: float) -> list[Item]:
        """Return what has come."""
        return self._reader.feed(self._stream.frames())

    def close(self) -> None:
        """Give up what is open."""
        self._reader.close()


class SourceSession:
    """The tail's session on the source, which shows the rows of now: for it, that is the future."""

    broken = False

    def __init__(self, world: World) -> None:
        """Show the rows of now."""
        self._world = world

    def execute(self, query: Any, parameters: Any = ()) -> Any:
        """Run a query over the rows of now."""
        database = take_database(CATALOG)
        for name, rows in self._world.source.tables.items():
            places = ", ".join("?" * len(COLUMNS[name]))
            values = [tuple(version.values.values()) for version in rows.values()]
            database.connection.executemany(f'INSERT INTO "{name}" VALUES ({places})', values)
        found = Session(database).execute(query, parameters)
        database.give_back()
        return found

    def close(self) -> None:
        """Do nothing."""


@cache
def _written(name: str, shard: str, again: bool, _: object) -> ShardWrite:  # noqa: FBT001  a key of the cache
    leaf = CATALOG.tables[TableName.parse(name)]
    return statements._shard_write(leaf, shard, shard_map=SHARD_MAP, again=again, quoting=cast("Any", None))


class OneThread:
    """What stands for the tail's threads: everything is done at once, in the shards' order."""

    def __init__(self, *_: object, **__: object) -> None:
        """Have none."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do something; what it raises is in the future."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001  raised to whoever asks for the result
            future.set_exception(error)
        return future

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Do something with each."""
        return [work(item) for item in items]

    def shutdown(self) -> None:
        """Do nothing."""


class World:
    """A migration from the slot to the end."""

    def __init__(self) -> None:
        """Start with an empty source and empty shards."""
        self.source = Source()
        self.databases = {name: take_database(CATALOG) for name in SHARDS}
        self.journal = ModelJournal(self)
        self.confirmed = LSN(0)
        self.portions: list[int] = []
        self.open_chunks = [(name, block) for name in COLUMNS for block in range(1 if name == KEYLESS else BLOCKS)]
        self.half_copied: set[tuple[int, str, str, int]] = set()
        self._snapshot: Tables = {}
        self._crashes: frozenset[Crash] = frozenset()
        self._steps: Counter[str] = Counter()

    def close(self) -> None:
        """Throw everything away."""
        for database in self.databases.values():
            database.give_back()

    @contextmanager
    def durable(self, where: str, connection: Any = None) -> Iterator[None]:
        """Surround a durable step, and die before or after it if the run is to."""
        self._steps[where] += 1
        number = self._steps[where]
        try:
            self._die_if((where, number, False))
            yield
            self._die_if((where, number, True))
        except psycopg.OperationalError:
            if connection is not None:
                connection.broken = True
            raise

    def _die_if(self, crash: Crash) -> None:
        if crash in self._crashes:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    # the copy

    def open_snapshot(self) -> None:
        """Open the first snapshot with the slot, or the next one."""
        if not self.journal.opened:
            self.source.begin()
            self.confirmed = self.source.now
        self._snapshot = self.source.at(self.source.now + 1)
        xid = self.source.next_xid
        self.journal.opened.append(SnapshotEpoch(len(self.journal.opened) + 1, f"{xid}:{xid}:", self.source.now))

    def copy(self, name: str, block: int, *, only: tuple[str, ...] = SHARDS) -> None:
        """Copy one chunk under the snapshot; with fewer shards, the copy dies before the others commit."""
        epoch = self.journal.opened[-1].epoch
        versions = [v for v in self._snapshot[name].values() if name == KEYLESS or v.block == block]
        for shard in only:
            rows = [tuple(v.values.values()) for v in versions if home(name, v.values, self._snapshot) == shard]
            if (epoch, shard, name, block) not in self.half_copied:
                self._write_chunk(name, shard, rows, again=epoch > 1)
                self.half_copied.add((epoch, shard, name, block))
        if only == SHARDS:
            self.open_chunks.remove((name, block))
            keyed = name != KEYLESS
            self.journal.done.append(Chunk(block, TableName.parse(name), 0, None, 0, keyed, done_epoch=epoch))
        if not self.open_chunks:
            self._hand_over()

    def _write_chunk(self, name: str, shard: str, rows: list[tuple[Any, ...]], *, again: bool) -> None:
        """Run the statements with which the product's copy takes rows in, all in one transaction."""
        written = _written(name, shard, again, statements._from_staging)
        if not rows and not (written.before and not written.after):
            return
        session = Session(self.databases[shard])
        session.autocommit = False
        for statement in written.before:
            session.execute(statement)
        with session.cursor().copy(written.copy_in) as copy:
            for row in rows:
                copy.write_row(row)
        for statement in written.after:
            session.execute(statement)
        session.commit()
        session.close()

    def _hand_over(self) -> None:
        for database in self.databases.values():
            set_position(cast("Any", Session(database)), self.journal.opened[0].lsn)

    # the tail

    @property
    def tailing(self) -> bool:
        """Whether the copy is done."""
        return not self.open_chunks

    def tail(
        self,
        until: LSN,
        *,
        portions: list[int],
        crashes: frozenset[Crash] = frozenset(),
        merging: bool = False,
        compiled: bool = False,
        small: bool = False,
    ) -> bool:
        """Run a tail up to a position; returns whether it got there. Judges what it left behind.

        Args:
            until: Everything below it is to be applied.
            portions: How many transactions come at once; a batch is what has come. What is left comes last.
            crashes: Where the run dies, if it gets there.
            merging: Whether a few changes are worth a net change already.
            compiled: Whether plain changes go the compiled way.
            small: Whether every limit is 1, so that each bounded thing is done in several parts.
        """
        self.portions, self._crashes = portions, crashes
        self._steps.clear()
        self.journal.connection = SimpleNamespace(broken=False)
        arrived = True
        with self.seams(merging=merging, compiled=compiled, small=small):
            try:
                self._run(until)
            except TemporaryError:
                if not crashes:
                    raise
                arrived = False
            except ShardmigError as error:
                raise Lost(f"the tail stopped: {error}") from error
        self.judge()
        return arrived

    def _run(self, until: LSN) -> None:
        running = Tail(
            SHARD_MAP,
            CATALOG,
            self.journal.get(),
            journal=cast("Any", self.journal),
            spool=Path(tempfile.gettempdir()),
        )
        try:
            running.run(Event(), until=until)
        finally:
            running.close()

    @contextmanager
    def seams(self, *, merging: bool, compiled: bool, small: bool) -> Iterator[None]:
        """Replace what the tail takes from the postgres room: sessions, the stream, the clock."""
        ticks = count()
        clock = SimpleNamespace(monotonic=lambda: next(ticks) * CLOCK_STEP_S, sleep=lambda _: None)
        of_tail: dict[str, Any] = {
            "connect": lambda *_: SourceSession(self),
            "Definitions": lambda _: SimpleNamespace(refuse_drift=lambda *_: None),
            "Stream": lambda *_, start, **__: ModelStream(self, start=start),
            "Receiver": ModelReceiver,
            "emit_marker": lambda *_: None,
            "insert_lsn": lambda _: self.source.now,
            "clock": lambda _: datetime.now(UTC) + (AGES if small else -AGES),  # behind, batches grow
            "read_catalog": lambda _: CATALOG,
            "time": clock,
        }
        with ExitStack() as patched:
            patched.enter_context(patch.multiple(tail, **of_tail))
            patched.enter_context(patch.object(shards, "connect", self._connect))
            patched.enter_context(patch.object(batches, "ThreadPoolExecutor", OneThread))
            for module, names in SMALL.items() if small else ():
                for name in names:
                    patched.enter_context(patch.object(module, name, 1))
            patched.enter_context(patch.object(kernel, "IS_COMPILED", compiled))
            if merging:
                patched.enter_context(patch.multiple(shards, MERGED_MIN=1, MERGED_TABLE_MIN=1))
                patched.enter_context(patch.object(bulk, "STAGED_MIN", 1))
            yield

    def _connect(self, url: str, purpose: str, *, autocommit: bool = True) -> Session:
        name = url.rpartition("/")[2]
        if purpose.endswith("lookup"):
            return Session(cast("Any", self.databases[name].committed))
        return Session(self.databases[name], around_commit=partial(self._commit_of, name), autocommit=autocommit)

    def _commit_of(self, shard: str) -> AbstractContextManager[None]:
        """Tell the commits that bring all rows home apart: they are rare, and they move no position on."""
        record = self.journal.record
        settling = record is not None and record[0] == record[1]
        return self.durable(f"home {shard}" if settling else shard)

    # the judge

    @property
    def exact(self) -> bool:
        """Whether each shard has to be exactly what the source was at that shard's position."""
        return len(self.journal.opened) == 1 or SETTLED in self.journal.evidence

    def judge(self) -> None:
        """Hold each shard against the source as of the shard's own position, in a torn batch too."""
        positions = {name: database.position() for name, database in self.databases.items()}
        if self.confirmed > min(positions.values()):
            raise Lost(f"the slot forgot what a shard still lacks: {self.confirmed}, {positions}")
        if not self.exact:
            return
        for shard, database in self.databases.items():
            expected = placed(self.source.at(positions[shard]))[shard]
            actual = {name: Counter(database.rows(name)) for name in COLUMNS}
            if expected != actual:
                missing = {name: dict(expected[name] - actual[name]) for name in COLUMNS}
                extra = {name: dict(actual[name] - expected[name]) for name in COLUMNS}
                raise Lost(f"{shard} at {LSN(positions[shard])} lacks {missing}, has too much {extra}")

    def finish(self) -> None:
        """Copy what is open, catch up, and hold everything against the source of now."""
        if not self.journal.opened:
            self.open_snapshot()
        for name, block in list(self.open_chunks):
            self.copy(name, block)
        if not self.tail(self.source.now, portions=[]):
            raise Lost("the tail did not catch up")
        if not self.exact or {d.position() for d in self.databases.values()} != {self.source.now}:
            raise Lost("the shards do not stand at the source's position of now")

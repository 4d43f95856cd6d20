"""Drives the stream: reads transactions, gathers batches, applies them, holds at barriers, says where it stands.

One thread. It acknowledges to the source only what every shard has committed (pitfall 37), and it stops at an LSN it
is told, with every shard exactly there.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import psycopg
from psycopg import sql

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration, TailState
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import DriftError, RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase, Writer, writer_in
from fixia_shardmig.model.places import place
from fixia_shardmig.model.throttle import Pace
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.replication import Stream
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import clock, connect, insert_lsn
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.postgres.transactions import Idle, Item, Transaction, TransactionReader
from fixia_shardmig.postgres.visibility import is_visible
from fixia_shardmig.tail import statements
from fixia_shardmig.tail.batches import Batches
from fixia_shardmig.tail.definitions import Definitions
from fixia_shardmig.tail.pulse import Pulse, Valve
from fixia_shardmig.tail.receiver import Receiver
from fixia_shardmig.tail.record import Decisions
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.spool import Messages
from fixia_shardmig.tail.tables import TailTable, TailTables

MARKER_PREFIX = "shardmig"
SETTLED = "settled_lsn"
"""The evidence that every row was brought home after the last snapshot epoch."""

BATCH_CHANGES = 60_000
BATCH_BYTES = 32 * 1024 * 1024
"""Of memory held. With what waits to be taken, what is taken, and what is open, four times this is held at most."""

AHEAD_CHANGES = 20_000
"""Of a batch that grows, from which on what there is of it is routed, so that shards have work."""

BEHIND = timedelta(seconds=2)
GROW_S = 2.0
GROW_WAIT_S = 0.1
"""We are behind when so much time lies between a commit on the source and now. Then a batch may grow for the second of
these times, and it ends when nothing came for the third. In time, it ends whenever nothing more has come."""

QUEUE_BYTES = 24 * 1024 * 1024
"""How much may wait while the tail is held at a barrier; beyond it the source's socket is left to fill."""

WAIT_S = 0.1
HELD_WAIT_S = 0.01
CONTROL_S = 0.2
STATE_S = 1.0
IDLE_S = 1.0
"""How often an idle source's progress is written to the shards; markers are written at once."""

HEARTBEAT_S = 10.0
DRIFT_S = 10.0


CYCLES_S = 10.0
"""How often cycles are looked for. A batch is some hundred thousand objects, none of them in a cycle: a look whenever
many of them were made took a tenth of our time."""


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have the garbage collector look for cycles only when it is told to."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # what was there before is not looked at again
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


@dataclass(slots=True)
class TailTotals:
    """What one run of the tail has done."""

    applied_lsn: LSN
    transactions: int = 0
    changes: int = 0
    moved_rows: int = 0
    conflicts: int = 0
    seconds: float = 0.0


class Tail:
    """The forward stream of one migration, from its slot to all shards."""

    def __init__(
        self,
        shard_map: ShardMap,
        catalog: Catalog,
        migration: Migration,
        *,
        journal: Journal,
        spool: Path,
        on_state: Callable[[TailState], None] | None = None,
        open_messages: Callable[[LSN], Messages] | None = None,
        pace: Callable[[], Pace] | None = None,
    ) -> None:
        """Connect to every shard and to the source's slot; replays a batch that a crash left half committed.

        Args:
            shard_map: Where rows live.
            catalog: The source's, as planned; definitions are held against it.
            migration: The journal's row.
            journal: This thread's session on the journal.
            spool: A directory for large transactions.
            on_state: Told once a second what the tail publishes.
            open_messages: Opens what to read at the shards' position; the slot's stream if nothing else is said.
            pace: How fast it may go; a barrier and the fence are served at full speed, since somebody waits.
        """
        self.shard_map = shard_map
        self.catalog = catalog
        self.migration = migration
        self.journal = journal
        self._on_state = on_state
        self._open_messages = open_messages or self._open_stream
        self._valve = Valve(pace)
        self._hurry = False
        self._epochs = journal.epochs()
        self._queue: deque[Item] = deque()
        self._queue_bytes = 0
        self._batch: list[Transaction] = []
        self._batch_changes = self._batch_bytes = self._unrouted_changes = 0
        self._batch_since_s = 0.0
        self._source_ahead = timedelta()
        self._limit: LSN | None = None
        self._drift: LSN | None = None
        self._barrier: int | None = None
        self._reached: int | None = None
        self._commit_time: datetime | None = None
        self._pulse = Pulse("control", "state", "heartbeat", "drift", "idle", "cycles")
        with ExitStack() as opened:
            self._open(opened, spool)
            self._opened = opened.pop_all()
        self.totals = TailTotals(self.batches.position)
        self._is_loose = self._starts_loose()
        self._read_ahead = insert_lsn(self._source) if self._is_loose else LSN(0)
        self.batches.router.loose = self._is_loose

    def _open(self, opened: ExitStack, spool: Path) -> None:
        """Connect to everything; what is open when something fails is closed by the stack."""
        self._source = connect(self.shard_map.source.url, "tail control")
        opened.callback(self._source.close)
        shards: list[ShardSession] = []
        for number, (name, endpoint) in enumerate(self.shard_map.shards.items()):
            shards.append(ShardSession(number, name, url=endpoint.url, catalog=self.catalog))
            opened.callback(shards[-1].close)
            shards[-1].open_aside()
        _refuse_unset(shards)
        self.batches = Batches(
            TailTables(self.shard_map, self.catalog),
            shards,
            journal=self.journal,
            fetch_missing=self._fetch_missing,
            skips=self._skips_function(),
            definitions=Definitions(self._source),
            spool=spool,
        )
        opened.callback(self.batches.close)
        reader = TransactionReader(spool, message_prefixes=frozenset({MARKER_PREFIX}))
        self._receiver = Receiver(self._open_messages(self.batches.position), reader)
        opened.callback(self._receiver.close)

    def _open_stream(self, start: LSN) -> Messages:
        return Stream(
            self.shard_map.source.url,
            self.migration.slot,
            start=start,
            publication=self.migration.publication,
            purpose=f"tail {self.migration.name}",
        )

    def close(self) -> None:
        """Close everything; what is not applied stays in the slot."""
        for transaction in (*self._batch, *(item for item in self._queue if isinstance(item, Transaction))):
            transaction.close()
        self._opened.close()

    @property
    def consistent(self) -> bool:
        """Whether the shards together are a state that the source once had."""
        return not self._is_loose

    # what the epochs of the copy ask for

    def _starts_loose(self) -> bool:
        """Whether rows of several snapshots are still to be made one: until all rows were brought home once."""
        return len(self._epochs) > 1 and not self.migration.evidence.get(SETTLED)

    def _skips_function(self) -> Callable[[TailTable, int], bool]:
        """Tables without a key are replayed only past their own snapshot (pitfall 44); others are replayed whole."""
        epochs = {epoch.epoch: epoch.snapshot for epoch in self._epochs if epoch.epoch > 1}
        snapshots = {
            chunk.table: epochs[chunk.done_epoch]
            for chunk in self.journal.chunks()
            if not chunk.keyed and chunk.done_epoch in epochs
        }
        if not snapshots:
            return lambda _table, _xid: False
        return lambda table, xid: table.leaf in snapshots and is_visible(xid, snapshots[table.leaf])

    def _fetch_missing(self, table: TailTable, key: Key, columns: tuple[str, ...]) -> dict[str, str | None] | None:
        """Read left-out columns of a row on the source; a later change of them is still to come in the stream.

        Until it has come, the shards hold values of the future, or lack a row that is gone by now.
        """
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            statements.as_text(columns),
            statements.target(table.table),
            statements.equal(table.table, table.own.columns),
        )
        row = self._source.execute(query, key).fetchone()
        self._read_ahead = insert_lsn(self._source)
        return dict(zip(columns, row, strict=True)) if row else None

    # the loop

    @_rare_collections()
    def run(self, stop: Event, *, until: LSN | None = None) -> TailTotals:
        """Apply changes until `stop` is set, the shards own the writes, or everything below `until` is applied.

        Raises DriftError when the source's definitions are others by now, with everything applied that came before
        this was noticed; changes of a new shape are refused where they stand.
        """
        began = time.monotonic()
        try:
            self._replay_torn_batch()
            self._replay_torn_settling()
            self._reach_consistency()
            while not stop.is_set():
                if until is not None and self.batches.position >= until:
                    self._refuse_drift()
                    break
                if not self._turn(until):
                    break
            self._apply_batch()
            self._tell_state("" if not stop.is_set() else "stopped")
        except psycopg.Error as error:
            explained = self._explained(error)
            self._tell_failure(explained)
            raise explained from error
        except ShardmigError as error:
            self._tell_failure(error)
            raise
        self.totals.seconds += time.monotonic() - began
        return self.totals

    def _turn(self, until: LSN | None) -> bool:
        """Read and apply once; False when the tail has no more business."""
        if not self._control():
            return False
        limit = min((lsn for lsn in (self._limit, until, self._drift) if lsn is not None), default=None)
        held = (self._barrier is not None and self._limit is None) or self._slowed()
        reached = self._consume(limit) if not held else False
        if held or reached:
            self._apply_batch()
            if reached and limit == self._drift:
                self._refuse_drift()
            elif reached and self._barrier is not None and limit == self._limit:
                self._at_barrier()
            elif reached and until is not None:
                self._advance(until)
                return True
        self._receive(HELD_WAIT_S if held or self._barrier is not None else WAIT_S)
        self._receiver.acknowledge(self.batches.position)
        self._tell_state("")
        return True

    def _receive(self, wait_s: float) -> None:
        """Take what the receiver has. A queue that is long already, at a barrier, is left to the receiver to bound."""
        if self._queue_bytes > QUEUE_BYTES:
            time.sleep(wait_s)
            return
        waiting = bool(self._queue or self._batch)
        items = self._receiver.take(0.0 if waiting and self._barrier is None and not self._slowed() else wait_s)
        if not items and self._may_grow():
            self._begin_batch()
            items = self._receiver.take(GROW_WAIT_S)
        for item in items:
            if isinstance(item, Idle) and self._queue and isinstance(self._queue[-1], Idle):
                self._queue.pop()  # the later one says more; a pause may be long
            self._queue.append(item)
            if isinstance(item, Transaction):
                self._queue_bytes += item.held_bytes
        if not items and self._batch:
            self._apply_batch()

    def _may_grow(self) -> bool:
        """Whether the batch may wait for more: we are behind anyway, and a larger one costs less a change."""
        if not self._batch or self._barrier is not None or self._hurry:
            return False
        if time.monotonic() - self._batch_since_s > GROW_S:
            return False
        now = datetime.now(UTC) + self._source_ahead
        return now - self._batch[-1].commit_time > BEHIND

    def _slowed(self) -> bool:
        """Whether nothing may be taken now: an operator, a signal or the rate says so, and nobody waits for us."""
        return not self._hurry and self._barrier is None and self._valve.is_shut()

    def _consume(self, limit: LSN | None) -> bool:
        """Take items off the queue into batches; True as soon as everything below the limit has been taken."""
        while self._queue and not self._slowed():
            item = self._queue[0]
            at = lsn_of(item)
            if limit is not None and at >= limit:
                return True
            self._queue.popleft()
            if isinstance(item, Transaction):
                self._queue_bytes -= item.held_bytes
                self._valve.spend(item.size_bytes)
                self._take(item)
            elif isinstance(item, Idle):
                if not self._batch and self._pulse.due("idle", IDLE_S):
                    self._advance(at)
            else:
                self._at_marker(at)
        return False

    def _at_marker(self, lsn: LSN) -> None:
        """Have everything before a marker on every shard, and say so at once: a drain waits for it."""
        self._apply_batch()
        self._advance(lsn)
        self._pulse.hasten("state")
        self._tell_state("")

    def _take(self, transaction: Transaction) -> None:
        if transaction.commit_lsn < self.totals.applied_lsn:
            transaction.close()
            return
        if not self._batch:
            self._batch_since_s = time.monotonic()
        self._batch.append(transaction)
        changes = len(transaction.changes)
        self._batch_changes += changes
        self._batch_bytes += transaction.held_bytes
        self._unrouted_changes += changes
        if self._batch_changes >= BATCH_CHANGES or self._batch_bytes >= BATCH_BYTES:
            self._apply_batch()
        elif self._unrouted_changes >= AHEAD_CHANGES:
            self._begin_batch()

    def _begin_batch(self) -> None:
        """Have the shards work on what there is of a batch while it grows."""
        self.batches.begin(self._batch)
        self._unrouted_changes = 0

    def _apply_batch(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        changes, self._batch_changes, self._batch_bytes, self._unrouted_changes = self._batch_changes, 0, 0, 0
        self.batches.apply(batch, batch[-1].end_lsn)
        self.totals.transactions += len(batch)
        self.totals.changes += changes
        self.totals.moved_rows = self.batches.moved_rows
        self.totals.conflicts = sum(self.batches.missed.values())
        self.totals.applied_lsn = self.batches.position
        self._commit_time = batch[-1].commit_time
        for transaction in batch:
            transaction.close()
        place("tail.before_acknowledge")
        self._receiver.acknowledge(self.batches.position)
        place("tail.acknowledged")
        self._reach_consistency()

    def _advance(self, lsn: LSN) -> None:
        """Move every shard's position over a stretch without changes for us, at most as often as is useful."""
        if lsn <= self.batches.position:
            return
        self.batches.apply([], lsn)
        self.totals.applied_lsn = self.batches.position
        self._reach_consistency()

    def _reach_consistency(self) -> None:
        """Once all that was read ahead of the stream is passed, snapshots too, bring all rows home.

        From then on changes are held to their word.
        """
        consistent = self.migration.consistent_lsn
        if not self._is_loose or consistent is None or self.batches.position < max(consistent, self._read_ahead):
            return
        self.batches.router.loose = self._is_loose = False
        place("tail.before_settle")
        moved = self.batches.settle_all(self.batches.position)
        place("tail.settled")
        self.batches.missed.clear()
        self.journal.add_evidence({SETTLED: str(self.batches.position)})
        place("tail.consistent")
        self.journal.event("consistent", lsn=str(self.batches.position), moved_rows=moved)

    def _replay_torn_settling(self) -> None:
        lsn = self.batches.torn_settling()
        if lsn is None:
            return
        record = self.journal.batch_record()
        if record is None or record[:2] != (lsn, lsn):
            raise RefusedError(
                f"all rows were brought home at {lsn} on some shards only, and there is no record of it",
                hint="was a shard restored from a backup? shardmig abort, then begin again",
            )
        self.batches.replay([], Decisions.from_bytes(record[2]), lsn, settling=True)
        self.journal.event("settling_replayed", lsn=str(lsn))

    def _replay_torn_batch(self) -> None:
        torn = self.batches.torn()
        if torn is None:
            return
        start, end = torn
        record = self.journal.batch_record()
        if record is None or record[:2] != (start, end):
            raise RefusedError(
                f"the shards stand at {start} and {end}, and no batch record joins the two",
                hint="was a shard restored from a backup? shardmig abort, then begin again",
            )
        batch = self._read_again(start, end)
        place("tail.before_replay")
        self.batches.replay(batch, Decisions.from_bytes(record[2]), end)
        place("tail.replayed")
        for transaction in batch:
            transaction.close()
        self.journal.event("batch_replayed", start=str(start), end=str(end), transactions=len(batch))
        self.totals.applied_lsn = self.batches.position

    def _read_again(self, start: LSN, end: LSN) -> list[Transaction]:
        """Return exactly the transactions of a recorded batch; what comes after them waits in the queue."""
        batch: list[Transaction] = []
        complete = False
        while not complete:
            for item in self._receiver.take(WAIT_S):
                if isinstance(item, Transaction) and start <= item.commit_lsn < end:
                    batch.append(item)
                    complete = complete or item.end_lsn >= end
                else:
                    complete = complete or lsn_of(item) >= end
                    self._queue.append(item)
        return batch

    # barriers, state, heartbeats

    def _control(self) -> bool:
        """Look at what others ask of the tail; False when the writes are no longer the source's."""
        if self._pulse.due("cycles", CYCLES_S):
            gc.collect()
        if self._pulse.due("heartbeat", HEARTBEAT_S):
            emit_marker(self._source, MARKER_PREFIX, b"heartbeat")
            self._source_ahead = clock(self._source) - datetime.now(UTC)
        if self._drift is None and self._pulse.due("drift", DRIFT_S):
            self._look_for_drift()
        if not self._pulse.due("control", HELD_WAIT_S if self._barrier is not None else CONTROL_S):
            return True
        barrier = self.journal.barrier()
        if barrier is None:
            self._barrier = self._limit = None
            phase = self.journal.get().phase
            self._hurry = phase is Phase.FENCED
            return writer_in(phase) is not Writer.SHARDS
        if self._barrier != barrier.id:
            self._barrier = barrier.id
            self._apply_batch()
            place("barrier.before_held")
            self.journal.barrier_held(barrier.id)
            place("barrier.held")
        self._limit = barrier.lsn
        return True

    def _at_barrier(self) -> None:
        if self._barrier is not None and self._limit is not None and self._barrier != self._reached:
            self._advance(self._limit)
            place("barrier.before_reached")
            self.journal.barrier_reached(self._barrier)
            place("barrier.reached")
            self._reached = self._barrier

    def _look_for_drift(self) -> None:
        """Note where the source was when its definitions were found to be others: not every change shows in rows."""
        if read_catalog(self._source).fingerprint(self.shard_map.moved()) != self.migration.catalog_fingerprint:
            self._drift = insert_lsn(self._source)
            emit_marker(self._source, MARKER_PREFIX, b"drift")

    def _refuse_drift(self) -> None:
        if self._drift is not None:
            raise DriftError(
                "a table's definition changed on the source; what came before is applied up to"
                f" {self.batches.position}, and the slot keeps the rest",
                hint="shardmig schema diff shows what the shards lack; run that DDL there, then: shardmig tail",
            )

    def _tell_state(self, stopped_by: str) -> None:
        if not stopped_by and not self._pulse.due("state", STATE_S):
            return
        state = TailState(
            age_s=0.0,
            applied_lsn=self.batches.position,
            source_lsn=max(self._receiver.server_lsn, self.batches.position),
            applied_commit_time=self._commit_time,
            transactions=self.totals.transactions,
            changes=self.totals.changes,
            moved_rows=self.totals.moved_rows,
            conflicts=self.totals.conflicts,
            changes_per_s=self._pulse.rate(self.totals.changes),
            stopped_by=stopped_by,
        )
        self.journal.tell_tail_state(state)
        if self._on_state:
            self._on_state(state)

    def _explained(self, error: psycopg.Error) -> ShardmigError:
        """Name the server that an error of our own sessions came from: the source's, else the journal's."""
        lost = self.journal.connection.broken and not self._source.broken
        url = self.journal.url if lost else self.shard_map.source.url
        return as_shardmig_error(error, url, doing="tailing", next_command="shardmig tail")

    def _tell_failure(self, error: Exception) -> None:
        try:
            self._tell_state(str(error).splitlines()[0])
            self.journal.event("tail_stopped", reason=str(error))
        except psycopg.Error:
            return  # the journal is what went away; the error itself is on its way to the operator


def lsn_of(item: Item) -> LSN:
    """Return where an item of the stream stands; everything below it came before it."""
    match item:
        case Transaction():
            return item.commit_lsn
        case Idle():
            return item.server_lsn
        case _:
            return item.lsn


def _refuse_unset(shards: list[ShardSession]) -> None:
    for shard in shards:
        if shard.position is None:
            raise RefusedError(
                f"shard {shard.name} has no position: its copy is not finished", hint="shardmig copy --resume"
            )

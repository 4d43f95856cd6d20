"""The tail of the way back: every shard's stream into the source, by one hand, while the shards have the writes.

One thread applies what all streams bring, in one transaction on the source with the positions of all of them, so a
crash repeats nothing. Each shard is told only what is durable on the source (pitfall 37). What came to a shard through
replication is left out: on 16 and later by the server, on 15 by the Origin message (pitfall 66).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Final

import psycopg
from psycopg import errors

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.way_back import (
    APPLY_SETTING,
    BackState,
    SourceBooks,
    back_limits,
    prepare_back_state,
    tell_back_state,
)
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.throttle import Pace
from fixia_shardmig.postgres.replication import Stream
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, insert_lsn
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.postgres.transactions import Idle, Item, Transaction, TransactionReader
from fixia_shardmig.tail.contested import Contested
from fixia_shardmig.tail.definitions import Definitions
from fixia_shardmig.tail.merge_back import MergeBack, changes_of
from fixia_shardmig.tail.pulse import Pulse, Valve
from fixia_shardmig.tail.receiver import Receiver
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import TailTables
from fixia_shardmig.tail.tail import MARKER_PREFIX, lsn_of

BATCH_CHANGES: Final = 20_000
BATCH_BYTES: Final = 8 * 1024 * 1024
"""Of one stream in one transaction on the source; with three streams three times as much is held."""

WAIT_S: Final = 0.01
CONTROL_S: Final = 0.2
STATE_S: Final = 1.0
IDLE_S: Final = 1.0
HEARTBEAT_S: Final = 10.0
SETTLE_S: Final = 2.0
"""How often contested rows are read again; at once while a rollback waits."""

CONFLICT_TIMES: Final = 3
"""So often in a row contested rows meet the same conflict before it is said to be one: values change hands."""

BOTH_HAVE_IT = "two shards hold what the old database allows once: change one of the two rows"
CONFLICTS = (errors.UniqueViolation, errors.ExclusionViolation)

FOLLOWING = frozenset({Phase.SWITCHED, Phase.ROLLING_BACK})


@dataclass(slots=True)
class BackTotals:
    """What one run of the way back has done."""

    transactions: int = 0
    changes: int = 0
    missed: int = 0
    applied: dict[str, LSN] = field(default_factory=dict)


@dataclass(slots=True)
class _Conflict:
    """What kept contested rows from being written, and how far streams have to come for it to be more than a delay.

    Attributes:
        times: How often in a row the same was met, each time with all streams past the one before.
    """

    reason: str
    wanted: Mapping[str, LSN]
    times: int = 1

    @property
    def is_certain(self) -> bool:
        return self.times >= CONFLICT_TIMES


@dataclass(slots=True)
class _Batch:
    """What one stream brings next: whole transactions, and where it stands after them.

    One without transactions may wait for more, unless somebody waits for the position: then it is `urgent`.
    """

    transactions: list[Transaction]
    end: LSN
    urgent: bool = False


class _BackStream:
    """One shard's stream: its receiver, what waits, and up to where it is applied."""

    def __init__(self, shard: str, receiver: Receiver, position: LSN) -> None:
        self.shard = shard
        self.receiver = receiver
        self.position = position
        self.moved_at = 0.0
        self.limit: LSN | None = None
        self._queue: deque[Item] = deque()
        self._held: _Batch | None = None

    @property
    def waits(self) -> bool:
        """Whether something is there that is not applied."""
        return self._held is not None or bool(self._queue)

    def receive(self) -> None:
        """Take what has come; with a full queue it is left to the receiver to bound."""
        if len(self._queue) < BATCH_CHANGES:
            self._queue.extend(self.receiver.take(0.0))

    @property
    def is_at_limit(self) -> bool:
        """Whether everything below the limit is applied, and nothing else."""
        return self.limit is not None and self._held is None and self.position >= self.limit

    def next(self) -> _Batch | None:
        """Return what to apply next; the same again until `applied` says that it is."""
        if self._queue and not self.is_at_limit and (self._held is None or not self._held.transactions):
            before, self._held = self._held, self._gather()
            if before is not None:
                self._held.end = max(before.end, self._held.end)
                self._held.urgent = self._held.urgent or before.urgent
        return self._held

    def applied(self, end: LSN) -> None:
        """Go on behind a position that is durable on the source."""
        self.position = max(self.position, end)
        self.moved_at = time.monotonic()
        self.receiver.acknowledge(self.position)

    def done(self, batch: _Batch) -> None:
        """Let a batch go."""
        self._held = None
        for transaction in batch.transactions:
            transaction.close()
        self.applied(batch.end)

    def close(self) -> None:
        """Give back what waits; the slot keeps it."""
        held = self._held.transactions if self._held else []
        for item in (*held, *self._queue):
            if isinstance(item, Transaction):
                item.close()

    def _gather(self) -> _Batch:
        batch = _Batch([], self.position)
        changes = size_bytes = 0
        while self._queue and changes < BATCH_CHANGES and size_bytes < BATCH_BYTES:
            item = self._queue[0]
            if self.limit is not None and lsn_of(item) >= self.limit:
                batch.end = max(batch.end, self.limit)
                batch.urgent = True
                break
            self._queue.popleft()
            if isinstance(item, Transaction):
                batch.end = item.end_lsn
                if item.commit_lsn < self.position or item.origin is not None:
                    item.close()
                    continue
                batch.transactions.append(item)
                changes += len(item.changes)
                size_bytes += item.held_bytes
            elif isinstance(item, Idle):
                batch.end = max(batch.end, item.server_lsn)
            else:
                batch.end = max(batch.end, item.lsn)
                batch.urgent = True
        return batch


class BackTail:
    """All streams of the way back of one migration."""

    def __init__(
        self,
        shard_map: ShardMap,
        catalog: Catalog,
        *,
        journal: Journal,
        spool: Path,
        on_state: Callable[[BackState], None] | None = None,
        pace: Callable[[], Pace] | None = None,
    ) -> None:
        """Connect to the source and to every shard's slot.

        Args:
            shard_map: Where rows live.
            catalog: The source's.
            journal: This thread's session on the journal.
            spool: A directory for large transactions.
            on_state: Told once a second what is published.
            pace: How fast it may go; a barrier and a rollback are served at full speed, since somebody waits.

        Raises:
            RefusedError: The way back was not prepared, or a slot is lost.
        """
        self.shard_map = shard_map
        self.journal = journal
        self.totals = BackTotals()
        self._on_state = on_state
        self._pulse = Pulse("control", "state", "heartbeat", "settle")
        self._arrivals = Event()
        self._valve = Valve(pace)
        self._hurry = False
        self._conflict: _Conflict | None = None
        self._barrier: int | None = None
        prepare_back_state(journal)
        with ExitStack() as opened:
            self._open(opened, catalog, spool)
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack, catalog: Catalog, spool: Path) -> None:
        tables = TailTables(self.shard_map, catalog)
        self._source = ShardSession(0, "source", url=self.shard_map.source.url, catalog=catalog)
        opened.callback(self._source.close)
        self._source.connection.execute("SELECT set_config(%s, %s, false)", (APPLY_SETTING, self.shard_map.name))
        self._source.connection.commit()
        self._readers: dict[str, Connection] = {}
        for name, endpoint in self.shard_map.shards.items():
            self._readers[name] = connect(endpoint.url, f"way back {name}")
            opened.callback(self._readers[name].close)
        contested = Contested(tables, self._source, self._readers)
        definitions = {name: Definitions(reader) for name, reader in self._readers.items()}
        self._merge = MergeBack(tables, self._source, self._readers, contested, definitions)
        self._streams: list[_BackStream] = []
        for name, position in self._positions().items():
            reader = TransactionReader(spool, message_prefixes=frozenset({MARKER_PREFIX}))
            stream = _BackStream(
                name, Receiver(self._open_stream(name, position), reader, arrivals=self._arrivals), position
            )
            self._streams.append(stream)
            opened.callback(stream.receiver.close)
            opened.callback(stream.close)

    def _positions(self) -> dict[str, LSN]:
        found = SourceBooks(self._source.connection).positions(self.shard_map.shards)
        self._source.connection.commit()
        unset = [shard for shard, position in found.items() if position is None]
        if unset:
            raise RefusedError(
                f"the way back was not prepared: the source has no position of {', '.join(unset)}",
                hint="shardmig status; a cutover without a way back cannot be rolled back",
            )
        return {shard: position for shard, position in found.items() if position is not None}

    def _open_stream(self, shard: str, start: LSN) -> Stream:
        name = self.shard_map.back_name(shard)
        url = self.shard_map.shards[shard].url
        return Stream(url, name, start=start, publication=name, purpose=f"way back {shard}", origin_none=True)

    def close(self) -> None:
        """Close everything; what is not applied stays in the slots."""
        self._opened.close()

    # the loop

    def run(self, stop: Event, *, until: Mapping[str, LSN] | None = None) -> BackTotals:
        """Apply until `stop` is set, the shards have the writes no longer, or every stream has passed its LSN.

        Raises:
            RefusedError: A conflict that only people can resolve, or a change that cannot be brought back; the slots
                keep what follows.
        """
        try:
            while not stop.is_set() and self._wanted():
                if until is not None and self._has_passed(until) and self._is_settled():
                    break
                self._arrivals.clear()
                if not self._turn():
                    self._arrivals.wait(WAIT_S)
            self._tell_state("stopped" if stop.is_set() else "")
        except psycopg.Error as error:
            explained = self._explained(error)
            self._tell_failure(explained)
            raise explained from error
        except ShardmigError as error:
            self._tell_failure(error)
            raise
        self.totals.applied = {stream.shard: stream.position for stream in self._streams}
        return self.totals

    def _has_passed(self, until: Mapping[str, LSN]) -> bool:
        return all(stream.position >= until[stream.shard] for stream in self._streams if stream.shard in until)

    def _is_settled(self) -> bool:
        """Whether no row is contested; refuses where that will not come by itself."""
        if self._conflict is not None and self._conflict.is_certain:
            raise RefusedError(
                f"contested rows cannot be brought back: {self._conflict.reason}",
                hint=f"{BOTH_HAVE_IT}, then shardmig tail; until then there is no way back",
            )
        self._hurry = True
        return not len(self._merge.contested)

    def _wanted(self) -> bool:
        if self._pulse.due("heartbeat", HEARTBEAT_S):
            for reader in self._readers.values():
                emit_marker(reader, MARKER_PREFIX, b"heartbeat")
        if not self._pulse.due("control", CONTROL_S if self._barrier is None else WAIT_S):
            return True
        self._look_for_barrier()
        phase = self.journal.get().phase
        self._hurry = self._hurry or phase is Phase.ROLLING_BACK
        return phase in FOLLOWING

    def _look_for_barrier(self) -> None:
        """Hold while somebody asks for it, go exactly to where he says in each stream, and say so (see barrier.md)."""
        barrier = self.journal.barrier()
        if barrier is None:
            self._barrier = None
            for stream in self._streams:
                stream.limit = None
            return
        if self._barrier is None and len(self._merge.contested):
            return  # contested rows are read from the future of a limit: they are settled before it
        if self._barrier != barrier.id:
            self._barrier = barrier.id
            self.journal.barrier_held(barrier.id)
        limits = back_limits(self.journal, barrier.id)
        for stream in self._streams:
            stream.limit = limits.get(stream.shard)
        if limits and not barrier.reached and all(stream.is_at_limit for stream in self._streams):
            self.journal.barrier_reached(barrier.id)

    def _turn(self) -> bool:
        """Receive and apply once; returns whether there was anything."""
        if self._barrier is not None and any(stream.limit is None for stream in self._streams):
            return False
        if self._slowed():
            self._tell_state("")
            return False
        for stream in self._streams:
            stream.receive()
            stream.receiver.acknowledge(stream.position)
        batches = {stream.shard: batch for stream in self._streams if (batch := self._ready(stream))}
        if batches:
            self._spend(batches.values())
            self._apply(batches)
        positions = {stream.shard: stream.position for stream in self._streams}
        contested = self._merge.contested
        contested.clear(positions, lambda: self._source.commit_streams({}))
        if len(contested) and (self._hurry or self._pulse.due("settle", SETTLE_S)):
            self._settle()
        self._tell_state("")
        return bool(batches)

    def _slowed(self) -> bool:
        """Whether nothing may be taken now: an operator, a signal or the rate says so, and nobody waits for us."""
        return not self._hurry and self._barrier is None and self._valve.is_shut()

    def _ready(self, stream: _BackStream) -> _Batch | None:
        """Return a stream's next batch; one that only moves its position may wait."""
        batch = stream.next()
        if batch is None:
            return None
        due = batch.transactions or batch.urgent or self._hurry or time.monotonic() - stream.moved_at >= IDLE_S
        return batch if due else None

    def _apply(self, batches: Mapping[str, _Batch]) -> None:
        """Apply all streams' batches together; after a conflict each stream by itself, and in its own order."""
        if self._try(batches, merging=True):
            return
        for shard, batch in batches.items():
            self._apply_alone(self._stream(shard), batch)

    def _spend(self, batches: Iterable[_Batch]) -> None:
        size_bytes = sum(transaction.size_bytes for batch in batches for transaction in batch.transactions)
        self._valve.spend(size_bytes)

    def _try(self, batches: Mapping[str, _Batch], *, merging: bool) -> bool:
        self._source.merging = merging
        try:
            for shard, batch in batches.items():
                self._merge.take(shard, batch.transactions)
            self._source.commit_streams({shard: batch.end for shard, batch in batches.items()})
            self._merge.contested.committed()
        except (psycopg.IntegrityError, psycopg.DataError):
            self._undo()
            return False
        except BaseException:
            self._undo()
            raise
        finally:
            self._source.merging = False
        for shard, batch in batches.items():
            self._count(batch.transactions)
            self._stream(shard).done(batch)
        return True

    def _undo(self) -> None:
        self._source.rollback()
        if not self._source.has_failed:
            self._merge.contested.reload()

    def _apply_alone(self, stream: _BackStream, batch: _Batch) -> None:
        """Apply a batch transaction by transaction.

        Streams are not equally fast: a value that one shard gave free and another took can meet itself on the source,
        whichever stream is ahead. The rows of a transaction that meets such a conflict become contested.
        """
        while batch.transactions:
            transaction = batch.transactions[0]
            try:
                self._commit_alone(stream, transaction)
            except CONFLICTS as error:
                self._undo()
                if not self._contest(stream, transaction, error):
                    raise RefusedError(
                        f"a write of {stream.shard} cannot be brought back: {_conflict(error)}", hint=BOTH_HAVE_IT
                    ) from error
                continue
            except BaseException:
                self._undo()
                raise
            self._count([transaction])
            batch.transactions.pop(0).close()
            stream.applied(transaction.end_lsn)
        self._source.commit_streams({stream.shard: batch.end})
        stream.done(batch)

    def _commit_alone(self, stream: _BackStream, transaction: Transaction) -> None:
        self._merge.take(stream.shard, [transaction])
        self._source.commit_streams({stream.shard: transaction.end_lsn})
        self._merge.contested.committed()

    def _contest(self, stream: _BackStream, transaction: Transaction, error: psycopg.Error) -> bool:
        found = self._merge.contest(stream.shard, transaction, error.diag.table_name or "")
        self._source.commit_streams({})
        self._merge.contested.committed()
        return found

    def _settle(self) -> None:
        """Read contested rows again; the same conflict met again and again is one that only people can resolve."""
        conflict = self._conflict
        if conflict is not None and not self._has_passed(conflict.wanted):
            return
        try:
            self._merge.contested.settle(lambda: self._source.commit_streams({}))
            self._conflict = None
        except CONFLICTS as error:
            self._undo()
            self._met(_conflict(error))
        except BaseException:
            self._undo()
            raise

    def _met(self, reason: str) -> None:
        wanted = {shard: insert_lsn(reader) for shard, reader in self._readers.items()}
        for reader in self._readers.values():
            emit_marker(reader, MARKER_PREFIX, b"conflict")
        same = self._conflict is not None and self._conflict.reason == reason
        self._conflict = _Conflict(reason, wanted, self._conflict.times + 1 if same and self._conflict else 1)
        if self._conflict.times == CONFLICT_TIMES:
            self.journal.event("way_back_conflict", reason=reason)

    def _stream(self, shard: str) -> _BackStream:
        return next(stream for stream in self._streams if stream.shard == shard)

    def _count(self, transactions: Iterable[Transaction]) -> None:
        listed = list(transactions)
        self.totals.transactions += len(listed)
        self.totals.changes += changes_of(listed)
        self.totals.missed += sum(self._source.missed.values())
        self._source.missed.clear()

    # what others are told

    def _tell_state(self, stopped_by: str) -> None:
        if not stopped_by and not self._pulse.due("state", STATE_S):
            return
        conflict = [self._conflict.reason] if self._conflict and self._conflict.is_certain else []
        doubled = [f"{leaf} {', '.join(key)} is on two shards" for leaf, key in sorted(self._merge.contested.doubled)]
        state = BackState(
            age_s=0.0,
            applied={stream.shard: stream.position for stream in self._streams},
            seen={stream.shard: max(stream.receiver.server_lsn, stream.position) for stream in self._streams},
            transactions=self.totals.transactions,
            changes=self.totals.changes,
            changes_per_s=self._pulse.rate(self.totals.changes),
            contested=len(self._merge.contested),
            missed=self.totals.missed,
            blocked_by="; ".join([*conflict, *doubled[:3]]),
            stopped_by=stopped_by,
        )
        tell_back_state(self.journal, state)
        if self._on_state:
            self._on_state(state)

    def _explained(self, error: psycopg.Error) -> ShardmigError:
        lost = [name for name, reader in self._readers.items() if reader.broken]
        if self.journal.connection.broken:
            url = self.journal.url
        else:
            url = self.shard_map.shards[lost[0]].url if lost else self.shard_map.source.url
        return as_shardmig_error(error, url, doing="bringing writes back", next_command="shardmig tail")

    def _tell_failure(self, error: Exception) -> None:
        try:
            self._tell_state(str(error).splitlines()[0])
            self.journal.event("way_back_stopped", reason=str(error))
        except psycopg.Error:
            return  # the journal is what went away; the error itself is on its way to the operator


def _conflict(error: psycopg.Error) -> str:
    detail = error.diag.message_detail or ""
    table = f"{error.diag.schema_name}.{error.diag.table_name}" if error.diag.table_name else "a table"
    return f"{table}: {error.diag.message_primary or error}" + (f" ({detail})" if detail else "")

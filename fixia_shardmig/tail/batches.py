"""Applies one batch: route, settle, record, commit on every shard; or, after a crash, replay what was recorded.

All shards stand at the same position before and after. In between the batch record makes a replay exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import psycopg
from psycopg import errors

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.errors import DriftError, RefusedError, UnroutableError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.places import place
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.pgoutput import Change, Delete, Insert, Truncate
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail.definitions import Definitions
from fixia_shardmig.tail.emit import emit_delete, emit_insert, emit_truncate, emit_update
from fixia_shardmig.tail.locations import Locations
from fixia_shardmig.tail.record import Decisions, Explicit
from fixia_shardmig.tail.router import FLUSH_BYTES, FLUSH_OPERATIONS, Router
from fixia_shardmig.tail.sending import Overflow, Sending
from fixia_shardmig.tail.settle import settle, settle_everything
from fixia_shardmig.tail.shards import ShardSession
from fixia_shardmig.tail.tables import Keyspace, TailTable, TailTables

FetchMissing = Callable[[TailTable, Key, tuple[str, ...]], dict[str, str | None] | None]

_RETRIED = (UnroutableError, DriftError, psycopg.IntegrityError, psycopg.DataError)
"""What may come of merging, or of a single transaction: the batch is tried again in order, then one after the other."""

_SHAPE_ERRORS = (errors.UndefinedColumn, errors.UndefinedTable, errors.InvalidTextRepresentation)


class Batches:
    """The shards of a migration as one: they take batches and stand at one position."""

    def __init__(
        self,
        tables: TailTables,
        shards: Sequence[ShardSession],
        *,
        journal: Journal,
        fetch_missing: FetchMissing,
        skips: Callable[[TailTable, int], bool],
        definitions: Definitions,
        spool: Path,
    ) -> None:
        """Take the sessions; `position` may still differ between them until `replay`."""
        self.tables = tables
        self.shards = shards
        self.journal = journal
        self.moved_rows = 0
        self.missed: dict[TableName, int] = {}
        self._failed: ShardSession | None = None
        self._threads = {
            shard.number: ThreadPoolExecutor(1, thread_name_prefix=f"tail-shard-{shard.number}") for shard in shards
        }
        self._lookups = ThreadPoolExecutor(len(shards), thread_name_prefix="tail-lookup")
        self._routed = 0
        self._is_refused = False
        self.locations = Locations(self._find, kept_longest=tables.parents())
        self.router = Router(
            tables,
            shards,
            locations=self.locations,
            fetch_missing=fetch_missing,
            skips=skips,
            definitions=definitions,
            sending=Sending(self._on_all, self._start_flush),
            overflow=Overflow(self._keep_part, spool),
        )

    def close(self) -> None:
        """End the threads; the sessions are their owner's to close."""
        self.router.unsettled.clear()
        for thread in self._threads.values():
            thread.shutdown()
        self._lookups.shutdown()

    @property
    def position(self) -> LSN:
        """Return the LSN below which every shard has everything."""
        return min(shard.position for shard in self.shards if shard.position is not None)

    def torn(self) -> tuple[LSN, LSN] | None:
        """Return (start, end) of a batch that only some shards have committed, or None."""
        positions = {shard.position for shard in self.shards if shard.position is not None}
        if len(positions) < 2:  # noqa: PLR2004  two shards that differ
            return None
        return min(positions), max(positions)

    def torn_settling(self) -> LSN | None:
        """Return where all rows were brought home if only some shards have committed that, or None."""
        settled = {shard.settled for shard in self.shards}
        return max(lsn for lsn in settled if lsn is not None) if len(settled) > 1 else None

    def apply(self, batch: Sequence[Transaction], end: LSN) -> None:
        """Apply transactions and move every shard to `end`.

        A batch that fails is rolled back and tried again one transaction after the other, so that everything before
        the transaction that cannot be applied is applied.

        Raises:
            UnroutableError: A row has no home; nothing of its transaction is applied.
            DriftError: The targets lack what the stream brings.
            TemporaryError: A shard went away; run again.
        """
        if self._apply_merged(batch, end):
            return
        try:
            self._apply(batch, end, everything=False)
        except _RETRIED:
            self._rollback()
            if len(batch) < 2:  # noqa: PLR2004  one transaction alone is the culprit
                raise
            for transaction in batch:
                self._apply_alone(transaction)

    def begin(self, batch: Sequence[Transaction]) -> None:
        """Route what there is of a batch that grows, so that shards work on it meanwhile; `apply` is given all of it.

        Raises:
            TemporaryError: A shard went away; run again.
        """
        if self.router.loose or self._is_refused:
            return
        self._merge(merging=True)
        try:
            with self._explaining():
                self._route(batch)
        except _RETRIED:
            self._rollback()
            self._merge(merging=False)
            self._is_refused = True

    def _route(self, batch: Sequence[Transaction]) -> None:
        """Route what was not routed yet."""
        if not self._routed:
            self.router.begin()
        new, self._routed = batch[self._routed :], len(batch)
        self.router.route(new)

    def _apply_merged(self, batch: Sequence[Transaction], end: LSN) -> bool:
        """Try a batch with changes merged by key; False if it has to go in order, as when two rows swap an e-mail."""
        if self.router.loose:
            return False
        if self._is_refused:
            self._is_refused = False
            return False
        self._merge(merging=True)
        try:
            self._apply(batch, end, everything=False)
        except _RETRIED:
            self._rollback()
            return False
        finally:
            self._merge(merging=False)
        return True

    def _merge(self, *, merging: bool) -> None:
        for shard in self.shards:
            shard.merging = merging

    def settle_all(self, lsn: LSN) -> int:
        """Bring every row of every table home, once all snapshots' positions have been passed."""
        before = self.moved_rows
        self._apply([], lsn, everything=True)
        return self.moved_rows - before

    def _apply_alone(self, transaction: Transaction) -> None:
        try:
            self._apply([transaction], transaction.end_lsn, everything=False)
        except BaseException:
            self._rollback()
            raise

    def _apply(self, batch: Sequence[Transaction], end: LSN, *, everything: bool) -> None:
        start = self.position
        with self._explaining():
            self._route(batch)
            if self.router.unsettled or everything:
                moved = settle_everything(self.router) if everything else settle(self.router)
                self._on_all(ShardSession.flush)
            else:
                moved = 0
                self._begin_sending()
            place("tail.before_record")
            self.journal.write_batch_record(start, end, self.router.decisions.to_bytes())
            place("tail.recorded")
            self._on_all(ShardSession.flush)
            self._on_all(lambda shard: shard.commit(end, settled=everything))
            if self.router.decisions.part:
                place("tail.before_parts_dropped")
                self.journal.drop_batch_parts()
                place("tail.parts_dropped")
        self._routed = 0
        self.moved_rows += moved
        self._count_missed()
        self.locations.trim()

    def _begin_sending(self) -> None:
        """Have shards send the rest while the record is written, which is final where nothing has to move.

        A batch that fails on a shard after all has a record that no shard has committed: it means nothing, and the next
        one takes its place.
        """
        for shard in self.shards:
            if shard.pending:
                self._start_flush(shard)

    def _start_flush(self, shard: ShardSession) -> None:
        shard.start_flush(self._threads[shard.number])

    def _keep_part(self, number: int, content: bytes) -> None:
        place("tail.before_part")
        self.journal.write_batch_part(number, content)
        place("tail.part_kept")

    def replay(self, batch: Sequence[Transaction], last: Decisions, end: LSN, *, settling: bool = False) -> None:
        """Apply a recorded batch, given its record's last part, to the shards that lack it; decides nothing."""
        behind = [shard for shard in self.shards if (shard.settled if settling else shard.position) != end]
        with self._explaining():
            self._replay_changes(behind, batch, last)
            for shard in behind:
                shard.flush()
                shard.commit(end, settled=settling)

    def _replay_changes(self, behind: list[ShardSession], batch: Sequence[Transaction], last: Decisions) -> None:
        found = sum(len(transaction.changes) for transaction in batch)
        if found != last.changes:
            raise RefusedError(
                f"the batch record speaks of {last.changes} changes, the stream has {found}",
                hint="the slot or the journal was changed by hand: shardmig abort, then begin again",
            )
        changes = ((one.xid, change, size) for one in batch for change, size in one.changes.sized())
        before = (Decisions.from_bytes(self.journal.batch_part(number)) for number in range(last.part))
        for part in chain(before, (last,)):
            self._replay_part(behind, changes, part)
            for shard in behind:
                shard.flush()

    def _replay_part(
        self, behind: list[ShardSession], changes: Iterator[tuple[int, Change, int]], part: Decisions
    ) -> None:
        explicit = deque(part.explicit)
        waiting_bytes = 0
        for number, mask in enumerate(part.masks, part.first):
            while explicit and explicit[0].before_change <= number:
                self._replay_explicit(behind, explicit.popleft())
            xid, change, size = next(changes)
            self._replay_change(behind, change, mask, xid=xid)
            waiting_bytes += size
            if waiting_bytes >= FLUSH_BYTES or any(shard.pending >= FLUSH_OPERATIONS for shard in behind):
                waiting_bytes = 0
                for shard in behind:
                    shard.flush()
        while explicit:
            self._replay_explicit(behind, explicit.popleft())

    def _replay_explicit(self, behind: list[ShardSession], explicit: Explicit) -> None:
        for shard in behind:
            if shard.number == explicit.shard:
                shard.add_explicit(explicit)

    def _replay_change(self, behind: list[ShardSession], change: Change, mask: int, *, xid: int) -> None:
        if isinstance(change, Truncate):
            emit_truncate(behind, change, [plan.table for plan in self.router.truncated(change, xid)])
        elif isinstance(change, Insert):
            emit_insert(behind, self.router.plan_of(change.relation), change.new, mask)
        elif isinstance(change, Delete):
            emit_delete(behind, self.router.plan_of(change.relation), change.old, mask)
        elif mask:
            emit_update(behind, self.router.plan_of(change.relation), change, mask)

    def _find(self, space: Keyspace, keys: list[Key]) -> list[int]:
        found = [0] * len(keys)
        allowed = self.tables.by_root[self.tables.catalog.tables[space.table].root][0].allowed_mask
        shards = [shard for shard in self.shards if allowed >> shard.number & 1]
        committed = self.router.remembers_all
        answers = self._lookups.map(lambda shard: shard.find(space, keys, committed=committed), shards)
        for shard, places in zip(shards, answers, strict=True):
            for wanted in places:
                found[wanted] |= 1 << shard.number
        return found

    def _on_all(self, work: Callable[[ShardSession], None]) -> None:
        """Run something on every shard at once; the first error is raised after all have ended."""
        futures = [self._threads[shard.number].submit(work, shard) for shard in self.shards]
        for shard, failure in zip(self.shards, [future.exception() for future in futures], strict=True):
            if failure is not None:
                self._failed = shard
                raise failure

    def _rollback(self) -> None:
        for shard in self.shards:
            shard.rollback()
        self._routed = 0
        self.router.forget()

    def _count_missed(self) -> None:
        for counts in (self.router.missed, *(shard.missed for shard in self.shards)):
            for table, count in counts.items():
                self.missed[table] = self.missed.get(table, 0) + count
            counts.clear()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: psycopg.Error) -> Exception:
        """Leave what `apply` judges itself as it is; name the shard in everything else."""
        if isinstance(error, _SHAPE_ERRORS):
            return DriftError(
                f"a shard refuses a change of the source's newer definition: {str(error).splitlines()[0]}",
                hint="run the same DDL on the shards (shardmig schema diff shows it), then: shardmig tail",
            )
        if isinstance(error, psycopg.IntegrityError | psycopg.DataError):
            return error
        if self.journal.connection.broken:
            where, doing = self.journal.url, "recording a batch in the journal"
        elif shard := next((shard for shard in self.shards if shard.has_failed), self._failed):
            where, doing = shard.url, f"applying changes to shard {shard.name}"
        else:
            return error
        return as_shardmig_error(error, where, doing=doing, next_command="shardmig tail")

"""Runs the tail: catch up, build what the shards still lack, catch up again, then follow until told otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import psycopg

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration, TailState
from fixia_shardmig.model.catalog import Catalog, Table
from fixia_shardmig.model.errors import SAME_COMMAND, DriftError, RefusedError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase, Writer, writer_in
from fixia_shardmig.model.places import place
from fixia_shardmig.model.throttle import Limits
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.retry import unforeseen
from fixia_shardmig.postgres.sessions import insert_lsn, session
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.runner.context import Context, refuse_other_plan, spool_directory, timeline
from fixia_shardmig.runner.progress import mib
from fixia_shardmig.runner.returning import BackResult, bring_back, has_way_back
from fixia_shardmig.runner.slot_watch import refuse_if_lost, watching_slot
from fixia_shardmig.runner.spooling import message_opener
from fixia_shardmig.runner.throttling import Throttle, throttling
from fixia_shardmig.schema.apply import run_stage
from fixia_shardmig.tail.tail import MARKER_PREFIX, Tail, TailTotals

CAUGHT_UP_S = 2.0
"""A round of catching up that takes less than this leaves a lag that the next batches swallow."""

SAY_EVERY_S = 5.0
END_S = 5.0
"""How long a tail of our own may take to finish its batch; one that waits for a lock on a shard is left to its fate:
what it has not committed is sent again."""

LOOK_EVERY_S = 1.0
"""How often somebody who waits for another process's tail looks whether it is still there."""

STAGES_AFTER_CATCH_UP = ("indexes", "constraints")
STAGES_LAST = ("foreign_keys", "finish")
SCHEMA_DONE = "done"
NOT_ON_SHARDS = ""
"""The fingerprint of no catalog: the tail stops once it has applied what fits the shards."""
FOLLOWING = frozenset({Phase.TAILING, Phase.VERIFIED, Phase.FENCED})


@dataclass(slots=True)
class TailResult:
    """What this run of the tail has done; `switched` when the shards have taken the writes over, so that it is over."""

    applied_lsn: LSN
    changes: int = 0
    transactions: int = 0
    moved_rows: int = 0
    conflicts: int = 0
    seconds: float = 0.0
    switched: bool = False
    way_back: BackResult | None = None

    def add(self, totals: TailTotals) -> None:
        """Add one stretch of the stream."""
        self.applied_lsn = totals.applied_lsn
        self.changes += totals.changes
        self.transactions += totals.transactions
        self.moved_rows += totals.moved_rows
        self.conflicts += totals.conflicts
        self.seconds += totals.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `tail` part."""
        return {
            "applied_lsn": str(self.applied_lsn),
            "changes": self.changes,
            "transactions": self.transactions,
            "seconds": round(self.seconds, 3),
            "moved_rows": self.moved_rows,
            "conflicts": self.conflicts,
            "way_back": self.way_back.to_json() if self.way_back else None,
        }


def tail(
    context: Context,
    *,
    until: LSN | None = None,
    caught_up: bool = False,
    jobs: int = 2,
    spool: Path | None = None,
    limits: Limits | None = None,
) -> TailResult:
    """Follow the source; once the shards have the writes, bring these back into it.

    Args:
        context: The migration.
        until: End once everything below this LSN is on the shards.
        caught_up: End once caught up, with every index and constraint built.
        jobs: Statements at once a shard while indexes are built.
        spool: Where the copy has kept the stream; what it holds is applied before the stream goes on.
        limits: How fast it may go, and what holds it.

    Raises:
        UnroutableError, DriftError: Stopped before a transaction that cannot be applied; the slot keeps it.
        HeldError: Another run tails.
    """
    with context.journal() as journal, journal.holding("driver"):
        migration = journal.get()
        if has_way_back(migration):
            result = TailResult(migration.slot_lsn or LSN(0), switched=True)
        else:
            result = _Follower(context, journal, jobs, spool, limits).run(until=until, caught_up=caught_up)
        if has_way_back(journal.get()) and not context.stop.is_set():
            result.way_back = bring_back(context, journal, caught_up=caught_up, limits=limits)
        return result


class _Follower:
    """One run of `shardmig tail`, over as many streams as the building of indexes asks for."""

    def __init__(
        self,
        context: Context,
        journal: Journal,
        jobs: int,
        spool: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.context = context
        self.journal = journal
        self.jobs = jobs
        self.spool = spool
        self.limits = limits or Limits()
        self.throttle: Throttle | None = None
        self.migration = journal.get()
        _refuse_wrong_phase(self.migration)
        refuse_other_plan(context, self.migration, journal)
        self.migration = journal.get()
        _refuse_failover(context, self.migration)
        self.catalog = accept_definitions(context, journal, self.migration)
        self.migration = journal.get()
        self.result = TailResult(self.migration.slot_lsn or LSN(0))
        self._said = 0.0

    def run(self, *, until: LSN | None, caught_up: bool) -> TailResult:
        with (
            watching_slot(self.context, self.migration.slot),
            throttling(self.context, self.limits) as self.throttle,
        ):
            return self._run(until=until, caught_up=caught_up)

    def _run(self, *, until: LSN | None, caught_up: bool) -> TailResult:
        if until is not None:
            self._stream(lambda tail: tail.run(self.context.stop, until=until))
            return self.result
        if self.migration.schema_stage != SCHEMA_DONE:
            self._build()
        if caught_up:
            self._catch_up()
            return self.result
        if not self.context.stop.is_set():
            self.context.say("caught up; following the source (Ctrl-C ends it, shardmig tail goes on)")
            self._stream(lambda tail: tail.run(self.context.stop))
            self.result.switched = writer_in(self.journal.get().phase) is Writer.SHARDS
        return self.result

    def _build(self) -> None:
        """Catch up, index; catch up, add foreign keys. The slot holds what comes meanwhile."""
        for stages in (STAGES_AFTER_CATCH_UP, STAGES_LAST):
            self._catch_up()
            for stage in stages:
                self.context.refuse_if_stopped(f"building {stage}", "shardmig tail")
                self.context.say(f"building {stage.replace('_', ' ')}")
                build_on_all(self.context, stage, self.jobs)
                place("schema.stage_built", stage)
                self.journal.note(schema_stage=stage)
                place("schema.stage_noted", stage)
        self.journal.note(schema_stage=SCHEMA_DONE)
        place("schema.all_noted")
        self.journal.event("schema_complete")

    def _catch_up(self) -> None:
        def rounds(tail: Tail) -> TailTotals:
            while True:
                began = time.monotonic()
                with session(self.context.shard_map.source.url, "catch-up") as source:
                    goal = insert_lsn(source)
                    emit_marker(source, MARKER_PREFIX, b"catch-up")
                totals = tail.run(self.context.stop, until=goal)
                near = time.monotonic() - began < CAUGHT_UP_S
                if (near and tail.consistent) or self.context.stop.is_set():
                    return totals

        self._stream(rounds)

    def _stream(self, work: Callable[[Tail], TailTotals]) -> None:
        """Open the stream, work, and close it whatever happens."""
        follower = Tail(
            self.context.shard_map,
            self.catalog,
            self.migration,
            journal=self.journal,
            spool=spool_directory(self.context.shard_map),
            on_state=self._tell,
            open_messages=message_opener(self.context, self.migration, self.spool),
            pace=self.throttle.pace if self.throttle else None,
        )
        try:
            self.result.add(work(follower))
        except TemporaryError:
            with suppress(TemporaryError, psycopg.Error):  # a source that is away is what the error says already
                refuse_if_lost(self.context, self.journal, self.migration.slot)
            raise
        finally:
            follower.close()

    def _tell(self, state: TailState) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            self.context.say(
                f"tail: {state.transactions:,} transactions, {state.changes:,} changes"
                f" ({state.changes_per_s:,.0f}/s), {state.moved_rows:,} rows moved,"
                f" {mib(state.source_lsn - state.applied_lsn)} behind"
            )


def _refuse_wrong_phase(migration: Migration) -> None:
    if migration.phase in FOLLOWING:
        return
    hints = {Phase.PLANNED: "shardmig copy --resume", Phase.COPYING: "shardmig copy --resume"}
    raise RefusedError(
        f"the migration is in phase {migration.phase.value}: there is nothing to tail",
        hint=hints.get(migration.phase, "shardmig status"),
    )


def _refuse_failover(context: Context, migration: Migration) -> None:
    with session(context.shard_map.source.url, "timeline") as source:
        now = timeline(source)
    if now != migration.source_timeline:
        raise RefusedError(
            f"the source is on timeline {now}, the migration began on {migration.source_timeline}: it failed over,"
            " and before PostgreSQL 17 a slot is lost then",
            hint="shardmig abort --drop-targets, then begin again",
        )


def build_on_all(context: Context, stage: str, jobs: int) -> None:
    """Run one stage of the shards' DDL on all of them at once; what fails on one is raised after all have ended."""
    shards = context.shard_map.shards
    with ThreadPoolExecutor(len(shards), thread_name_prefix="schema") as pool:
        futures = [pool.submit(run_stage, endpoint.url, stage, jobs=jobs) for endpoint in shards.values()]
        for future in futures:
            future.result()


def accept_definitions(context: Context, journal: Journal, migration: Migration) -> Catalog:
    """Return the definitions to tail with: the source's if the shards have the same by now, else the shards' own.

    What came before a change of definitions can then still be applied; the tail stops before the first change of the
    new shape. Raises DriftError when the shards differ among themselves.
    """
    found = {name: _catalog_of(endpoint.url) for name, endpoint in context.shard_map.shards.items()}
    lacking = [line for name, catalog in found.items() for line in _differing_shapes(context, name, catalog)]
    if lacking:
        context.say("definitions changed on the source, and the shards lack it:\n  " + "\n  ".join(lacking))
        journal.note(catalog_fingerprint=NOT_ON_SHARDS)
        place("tail.definitions_lacking")
        return _as_on_shards(context, found, lacking)
    fingerprint = context.catalog.fingerprint(context.shard_map.moved())
    if fingerprint != migration.catalog_fingerprint:
        journal.note(catalog_fingerprint=fingerprint)
        place("tail.definitions_accepted")
        journal.event("definitions_changed", before=migration.catalog_fingerprint, now=fingerprint)
        context.say("definitions changed on the source; the shards have the same, so the tail goes on")
    return context.catalog


def _catalog_of(url: str) -> Catalog:
    with session(url, "definitions") as connection:
        return read_catalog(connection)


def _as_on_shards(context: Context, found: Mapping[str, Catalog], lacking: Sequence[str]) -> Catalog:
    """Return the source's catalog with the columns that its tables have on the shards; without those not there."""
    tables = dict(context.catalog.tables)
    for root in context.shard_map.moved():
        shards = context.shard_map.shards_of(root)
        for leaf in context.catalog.leaves(root):
            there = [found[shard].tables.get(leaf.name) for shard in shards]
            if len({_shape(table) for table in there}) > 1 or (there[0] is None and leaf.name == root):
                raise DriftError(
                    "the shards' definitions differ:\n  " + "\n  ".join(lacking),
                    hint="run the same DDL on all of them, then: shardmig tail",
                )
            if there[0] is None:
                del tables[leaf.name]
            else:
                tables[leaf.name] = replace(leaf, columns=there[0].columns)
    return replace(context.catalog, tables=tables)


def _differing_shapes(context: Context, shard: str, found: Catalog) -> list[str]:
    return [
        f"{shard}: {leaf.name}: {', '.join(sorted(_shape(leaf) ^ _shape(there))) if there else 'table is missing'}"
        for root in sorted(context.shard_map.moved())
        if shard in context.shard_map.shards_of(root)
        for leaf in context.catalog.leaves(root)
        if _shape(leaf) != _shape(there := found.tables.get(leaf.name))
    ]


def _shape(table: Table | None) -> frozenset[str]:
    columns = table.columns if table else ()
    return frozenset(f"{c.name} {c.type_text} {c.enum_labels or ''}".strip() for c in columns)


@contextmanager
def tail_running(context: Context, *, jobs: int = 2, explains: bool = True) -> Iterator[Callable[[], None]]:
    """Have a tail run while the block works: another process's, or one in a thread of this process.

    Args:
        context: The migration.
        jobs: As many at once.
        explains: Whether a failure of ours is raised instead of a TemporaryError of the block, which only waited for
            it; not where the block's error tells what it has left behind.

    Yields:
        A function for whoever waits for the tail: it raises at once what a tail of ours failed with, and
        TemporaryError when another process's has ended.
    """
    with context.journal() as journal:
        if not journal.try_hold("driver"):
            yield _OthersTail(journal).check
            return
        ours = OwnTail(context, journal, jobs)
        ours.start()
        try:
            yield ours.check
        except TemporaryError:
            if explains:
                ours.check()
            raise
        finally:
            ours.end()


@contextmanager
def tail_of_our_own(context: Context, *, jobs: int = 2) -> Iterator[OwnTail]:
    """Run a tail that the block may end whenever it likes; nobody else can start one before the block is over.

    Raises:
        HeldError: Another process tails.
    """
    with context.journal() as journal, journal.holding("driver"):
        ours = OwnTail(context, journal, jobs)
        ours.start()
        try:
            yield ours
        finally:
            ours.end()


class _OthersTail:
    """A tail in another process, seen by the lock it holds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raise TemporaryError once nobody holds the lock any more."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        if self._journal.holder("driver") is None:
            state = self._journal.tail_state()
            reason = f": {state.stopped_by}" if state and state.stopped_by else ""
            raise TemporaryError(f"the tail that was running has ended{reason}", hint=SAME_COMMAND)


class OwnTail(threading.Thread):
    """A tail in a thread of this process: of the way there, or of the way back once the shards have the writes."""

    def __init__(self, context: Context, journal: Journal, jobs: int) -> None:
        """Prepare it; `journal` is its own from `start` to its end, and holds the driver's lock."""
        super().__init__(name="tail", daemon=True)
        self._say = context.say
        self._context = Context(context.shard_map, context.catalog, stop=Event())
        self._journal = journal
        self._jobs = jobs
        self._failure: Exception | None = None

    def run(self) -> None:
        """Follow until told to end; keep what it fails with for whoever waits."""
        try:
            if has_way_back(self._journal.get()):
                bring_back(self._context, self._journal)
            else:
                _Follower(self._context, self._journal, self._jobs).run(until=None, caught_up=False)
        except psycopg.Error as error:
            self._failure = unforeseen(error)
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits
            self._failure = error

    def check(self) -> None:
        """Raise what the tail failed with."""
        if self._failure is not None:
            raise self._failure

    def end_for_good(self) -> None:
        """End it and be sure of it: from now on nobody writes to the shards, and only this process may begin to."""
        self.end()
        if self.is_alive():
            raise TemporaryError("the tail does not come to its end", hint=SAME_COMMAND)
        self.check()

    def check_alone(self) -> None:
        """Raise TemporaryError when the lock that keeps other tails away is gone."""
        try:
            self._journal.holder("driver")
        except psycopg.Error as error:
            raise TemporaryError("the journal's session is lost, and its lock with it", hint=SAME_COMMAND) from error

    def end(self) -> None:
        """Let it finish its batch; a failure that nobody waited for is told, since the next tail will meet it too."""
        self._context.stop.set()
        self.join(END_S)
        if self._failure is not None and sys.exception() is not self._failure:
            self._say(f"meanwhile the tail failed: {self._failure}".splitlines()[0])

"""The story of a copy: tables, publication, slot and snapshot, chunks, keys, positions.

Every step finds out whether it was done before, so a copy that was killed anywhere goes on with `--resume`. A snapshot
does not outlive its process: what is left is copied under a new one, the next epoch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

import psycopg
from psycopg import errors, sql

from fixia_shardmig.copy.chunks import CHUNK_BYTES, CHUNK_S_MAX, plan_chunks
from fixia_shardmig.copy.copier import CopyTotals, OpenExecutor, copy_chunks, local_executor
from fixia_shardmig.copy.fleet import fleet_executor, fleet_size
from fixia_shardmig.copy.statements import chunk_task
from fixia_shardmig.copy.worker import ChunkResult, ChunkTask
from fixia_shardmig.journal.journal import Journal, end_earlier_epochs, prepare_shard, set_position
from fixia_shardmig.journal.records import Migration, SnapshotEpoch
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.model.throttle import Limits, Pace
from fixia_shardmig.postgres.publications import create_publication, publication_tables
from fixia_shardmig.postgres.replication import replication_connection
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, insert_lsn, scalar, session
from fixia_shardmig.postgres.slots import blocking_transactions, create_slot, drop_slot
from fixia_shardmig.runner.chunk_queue import ChunkQueue
from fixia_shardmig.runner.context import Context, new_migration, refuse_other_plan
from fixia_shardmig.runner.planning import refuse_blockers
from fixia_shardmig.runner.progress import Progress
from fixia_shardmig.runner.slot_watch import refuse_if_lost, watching_slot
from fixia_shardmig.runner.spooling import SpoolOptions, Start, spooling
from fixia_shardmig.runner.throttling import throttling
from fixia_shardmig.schema.analyze import analyze
from fixia_shardmig.schema.apply import apply_pre_data, run_stage
from fixia_shardmig.schema.build import build_all
from fixia_shardmig.schema.shard_schema import ShardSchema

MAX_SNAPSHOT_AGE_S = 7200.0
BLOCKERS_AFTER_S = 2.0
POLL_S = 0.2
CANCEL_S = 5.0
RESUME = "shardmig copy --resume"
REWRITES_MAX = 5
"""So many times a table is read again from the start in one run: it is large, and who rewrites it can wait."""


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How to copy."""

    resume: bool = False
    jobs: int = 2
    chunk_bytes: int = CHUNK_BYTES
    max_snapshot_age_s: float = MAX_SNAPSHOT_AGE_S
    spool: SpoolOptions | None = None
    limits: Limits = field(default_factory=Limits)
    scheduler: str | None = None
    """HOST:PORT of a Dask scheduler whose workers copy, instead of processes of this host."""
    chunk_s_max: float = CHUNK_S_MAX


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What the whole copy holds, over all its runs; `seconds` is this run's."""

    rows: int
    bytes: int
    chunks: int
    epochs: int
    seconds: float
    snapshot_lsn: LSN | None

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `copy` part."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "chunks": self.chunks,
            "epochs": self.epochs,
            "seconds": round(self.seconds, 3),
            "snapshot_lsn": str(self.snapshot_lsn) if self.snapshot_lsn else None,
        }


def prepare_schema(context: Context, journal: Journal) -> Migration:
    """Begin the migration in the journal and make the tables on every shard; does nothing where that is done."""
    migration = journal.find()
    if migration is None:
        journal.create(new_migration(context))
        journal.set_rules(context.shard_map.fingerprint(), context.shard_map.rules())
        migration = journal.get()
    refuse_other_plan(context, migration, journal)
    if migration.phase is not Phase.PLANNED:
        return migration
    schemas = build_all(context.shard_map.source.url, context.shard_map, context.catalog)
    shards = context.shard_map.shards
    with ThreadPoolExecutor(len(shards), thread_name_prefix="schema") as pool:
        for future in [pool.submit(_prepare_shard, context, name, schemas[name]) for name in shards]:
            future.result()
    return migration


def _prepare_shard(context: Context, name: str, schema: ShardSchema) -> None:
    url = context.shard_map.shards[name].url
    with session(url, "schema") as connection:
        made = apply_pre_data(connection, schema)
        place("copy.before_tables_commit")
    with session(url, "schema") as connection:
        prepare_shard(connection)
    place("copy.shard_prepared")
    if made:
        context.say(f"{name}: tables made; {len(schema.dropped)} foreign keys end at the split")


def copy(context: Context, options: CopyOptions) -> CopyResult:
    """Copy everything and leave every shard ready for the tail.

    Raises:
        RefusedError: It has begun before and `resume` is not set, or something does not belong together.
        HeldError: Another run works on this migration.
        StoppedError: A signal; run again with `resume`.
    """
    began = time.monotonic()
    with context.journal() as journal, journal.holding("driver"):
        found = journal.find()
        if found is not None and not options.resume:
            raise RefusedError(
                f"migration {context.shard_map.name!r} was begun at {found.created_at:%Y-%m-%d %H:%M} and is in phase"
                f" {found.phase.value}",
                hint=f"{RESUME}, or shardmig abort to begin again",
            )
        if found is None:
            refuse_blockers(context)
            context.refuse_if_stopped("planning", RESUME)
        migration = prepare_schema(context, journal)
        context.refuse_if_stopped("making tables", RESUME)
        if migration.phase in {Phase.PLANNED, Phase.COPYING}:
            copy_jobs = fleet_size(options.scheduler) if options.scheduler else options.jobs
            limits = replace(options.limits, jobs=copy_jobs)
            with (
                spooling(context, options.spool, journal) as start_spool,
                throttling(context, limits) as throttle,
            ):
                carrying = replace(options, jobs=copy_jobs)
                _copy_all(context, carrying, journal, start_spool=start_spool, pace=throttle.pace)
                _make_ready(context, options, journal)
        return _result(journal, time.monotonic() - began)


def _result(journal: Journal, seconds: float) -> CopyResult:
    chunks = journal.chunks()
    return CopyResult(
        rows=sum(chunk.rows or 0 for chunk in chunks),
        bytes=sum(chunk.bytes or 0 for chunk in chunks),
        chunks=len(chunks),
        epochs=len(journal.epochs()),
        seconds=seconds,
        snapshot_lsn=journal.get().slot_lsn,
    )


def _copy_all(
    context: Context, options: CopyOptions, journal: Journal, *, start_spool: Start, pace: Callable[[], Pace]
) -> None:
    migration = journal.get()
    workers = _workers(options)
    if migration.slot_lsn is None:
        journal.renew_files(_files(context), whole_too=False)
        with _first_snapshot(context, options, journal, migration) as (epoch, snapshot), workers() as executor:
            start_spool()
            _copy_epoch(context, options, journal, epoch=epoch, snapshot=snapshot, executor=executor, pace=pace)
    start_spool()
    for _ in _while_open(context, journal):
        context.refuse_if_stopped("copying", RESUME)
        refuse_if_lost(context, journal, migration.slot)
        with _later_snapshot(context, options, journal) as (epoch, snapshot), workers() as executor:
            _copy_epoch(context, options, journal, epoch=epoch, snapshot=snapshot, executor=executor, pace=pace)


def _while_open(context: Context, journal: Journal) -> Iterator[None]:
    """Yield as long as there are chunks to copy, those of tables that were rewritten since they were read among them.

    Whoever reads a table holds a lock on it that no rewrite gets past; before and between there is none. Only the large
    ones are waited for without end: a small one that is emptied every minute, by TRUNCATE, is in the stream.
    """
    rewrites_left = REWRITES_MAX
    while True:
        again = journal.renew_files(_files(context), whole_too=rewrites_left > 0)
        for table in again:
            context.say(f"{table} was rewritten on the source, or may have been, and is read again")
        rewrites_left -= bool(again)
        if rewrites_left < 0:
            names = ", ".join(map(str, again))
            hint = f"keep VACUUM FULL, CLUSTER, ALTER TABLE and TRUNCATE away from it, then {RESUME}"
            raise RefusedError(f"{names} was rewritten {REWRITES_MAX + 1} times while it was copied", hint=hint)
        if all(chunk.done_epoch is not None for chunk in journal.chunks()):
            return
        yield


def _files(context: Context) -> dict[TableName, int]:
    """Return the number of the file that each moved table's blocks are in: another one after every rewrite."""
    leaves = {leaf.oid: leaf.name for root in context.shard_map.moved() for leaf in context.catalog.leaves(root)}
    with session(context.shard_map.source.url, "files") as source:
        query = "SELECT oid::int8, pg_relation_filenode(oid)::int8 FROM unnest(%s::oid[]) AS oid"
        found = source.execute(query, (list(leaves),)).fetchall()
    return {leaves[oid]: file for oid, file in found if file is not None}


def _workers(options: CopyOptions) -> OpenExecutor:
    """Return what opens an executor for one snapshot epoch."""
    if options.scheduler:
        return partial(fleet_executor, options.scheduler)
    return partial(local_executor, options.jobs)


@contextmanager
def _first_snapshot(
    context: Context, options: CopyOptions, journal: Journal, migration: Migration
) -> Iterator[tuple[SnapshotEpoch, str]]:
    """Make publication and slot, in this order (pitfall 15), list the chunks, and hold the slot's snapshot.

    The connection that made the slot stays silent: its next command would end the snapshot (pitfall 41).
    """
    url, shard_map = context.shard_map.source.url, context.shard_map
    with session(url, "prepare") as source:
        drop_slot(source, migration.slot)
        if publication_tables(source, migration.publication) is None:
            create_publication(source, migration.publication, sorted(shard_map.moved()))
    place("copy.publication_made")
    with replication_connection(url, f"slot {migration.slot}") as walsender:
        with naming_blockers(context, walsender, next_command=RESUME):
            made = create_slot(walsender, migration.slot)
        place("copy.slot_made")
        with session(url, "snapshot") as reader, reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(made.snapshot_name)))
            snapshot_text = scalar(reader, "SELECT pg_current_snapshot()::text")
            with journal.connection.transaction():
                journal.plan_chunks(plan_chunks(shard_map, context.catalog, chunk_bytes=options.chunk_bytes))
                place("copy.chunks_listed")
                journal.note(slot_lsn=made.lsn)
                epoch = journal.open_epoch(snapshot_text, made.lsn)
                journal.advance(Phase.PLANNED, Phase.COPYING, {"slot_lsn": str(made.lsn)})
            place("copy.first_epoch_open")
            yield epoch, made.snapshot_name


@contextmanager
def naming_blockers(
    context: Context, walsender: Connection, *, next_command: str, url: str = "", within_s: float | None = None
) -> Iterator[None]:
    """While a slot waits for older transactions to end, say which they are (pitfall 40); a signal ends the wait.

    Args:
        context: Who is told.
        walsender: Makes the slot.
        next_command: What to run again.
        url: Of the slot's server; the source's without it.
        within_s: After this time the slot is given up; None for as long as it takes.

    Raises:
        TemporaryError: The time was up.
        StoppedError: A signal came.
    """
    done = Event()
    began = time.monotonic()

    def watch() -> None:
        told = began
        at = url or context.shard_map.source.url
        with suppress(ShardmigError, psycopg.Error), session(at, "slot watch") as connection:
            while not done.wait(POLL_S):
                if context.stop.is_set() or (within_s is not None and time.monotonic() - began > within_s):
                    walsender.cancel_safe(timeout=CANCEL_S)
                elif time.monotonic() - told >= BLOCKERS_AFTER_S:
                    told = time.monotonic()
                    for blocker in blocking_transactions(connection):
                        context.say(f"the slot waits for an open transaction: {blocker}")

    watcher = threading.Thread(target=watch, name="slot watch", daemon=True)
    watcher.start()
    try:
        yield
    except errors.QueryCanceled:
        context.refuse_if_stopped("waiting for the slot", next_command)
        if within_s is not None:
            raise TemporaryError(
                f"older transactions have kept a slot from being made for {within_s:g} s",
                hint=f"let them end, or end them; then: {next_command}",
            ) from None
        raise
    finally:
        done.set()
        watcher.join()


@contextmanager
def _later_snapshot(context: Context, options: CopyOptions, journal: Journal) -> Iterator[tuple[SnapshotEpoch, str]]:
    """Open the next epoch: keys first, so that rows can be told apart, then a snapshot held by a session of its own."""
    _keys_for_open_chunks(context, options, journal)
    with session(context.shard_map.source.url, "snapshot") as holder, holder.transaction():
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = holder.execute("SELECT pg_current_snapshot()::text, pg_export_snapshot()").fetchone()
        if row is None:
            raise RefusedError("the source gave no snapshot", hint=RESUME)
        with session(context.shard_map.source.url, "snapshot LSN") as other:
            lsn = insert_lsn(other)
        context.say("the copy goes on under a new snapshot; the tail will make the rows of all snapshots one")
        place("copy.before_later_epoch")
        epoch = journal.open_epoch(row[0], lsn)
        place("copy.later_epoch_open")
        _end_epochs_before(context, epoch.epoch)
        yield epoch, row[1]


def _end_epochs_before(context: Context, epoch: int) -> None:
    """Have every shard refuse chunks of earlier epochs, which a worker without a driver could still bring."""
    for endpoint in context.shard_map.shards.values():
        try:
            with session(endpoint.url, "copy fence") as connection:
                end_earlier_epochs(connection, epoch)
        except psycopg.Error as error:
            doing = "waiting for a chunk that an earlier run has in hand"
            raise as_shardmig_error(error, endpoint.url, doing=doing, next_command=RESUME) from error


def _keys_for_open_chunks(context: Context, options: CopyOptions, journal: Journal) -> None:
    roots = {context.catalog.tables[chunk.table].root for chunk in journal.chunks() if chunk.done_epoch is None}
    for endpoint in context.shard_map.shards.values():
        run_stage(endpoint.url, "primary_keys", jobs=options.jobs, only_tables=roots)
        place("copy.open_keys_built")


def _copy_epoch(
    context: Context,
    options: CopyOptions,
    journal: Journal,
    *,
    epoch: SnapshotEpoch,
    snapshot: str,
    executor: Executor,
    pace: Callable[[], Pace],
) -> CopyTotals:
    """Copy what is open under one snapshot, until it is done, too old, or a signal comes."""
    chunks = journal.chunks()
    queue = ChunkQueue(journal, context.catalog, chunk_s_max=options.chunk_s_max)
    progress = Progress(
        context.say, "copy", total_bytes=sum(c.size_bytes for c in chunks), base=sum(c.bytes or 0 for c in chunks)
    )
    too_old = time.monotonic() + options.max_snapshot_age_s

    def on_done(now: CopyTotals, result: ChunkResult) -> None:
        queue.done(result)
        watch.refuse_if_lost()
        progress.tell(now.rows, now.bytes, f"{now.chunks}/{queue.total} chunks")

    with (
        session(context.shard_map.source.url, "quoting") as quoting,
        watching_slot(context, journal.get().slot) as watch,
    ):
        tasks = _tasks(context, queue, epoch, snapshot=snapshot, quoting=quoting, too_old=too_old)
        totals = copy_chunks(
            tasks,
            executor=executor,
            jobs=options.jobs,
            journal=journal,
            stop=context.stop,
            on_done=on_done,
            pace=pace,
        )
    context.refuse_if_stopped("copying", RESUME)
    return totals


def _tasks(
    context: Context, chunks: ChunkQueue, epoch: SnapshotEpoch, *, snapshot: str, quoting: Connection, too_old: float
) -> Iterator[ChunkTask]:
    for chunk in chunks:
        if time.monotonic() > too_old:
            return
        task = chunk_task(
            chunk, epoch, shard_map=context.shard_map, catalog=context.catalog, snapshot=snapshot, quoting=quoting
        )
        yield replace(task, pace_url=context.journal_url)


def _make_ready(context: Context, options: CopyOptions, journal: Journal) -> None:
    """Build the keys, gather statistics, and set every shard's position to the slot's start."""
    migration = journal.get()
    if migration.slot_lsn is None:
        raise RefusedError("the copy has no slot", hint=RESUME)
    _end_epochs_before(context, len(journal.epochs()) + 1)
    context.say("building primary keys")
    with (
        watching_slot(context, migration.slot),
        ThreadPoolExecutor(len(context.shard_map.shards)) as pool,
    ):
        for future in [
            pool.submit(_finish_shard, endpoint.url, options.jobs, migration.slot_lsn)
            for endpoint in context.shard_map.shards.values()
        ]:
            future.result()
    refuse_if_lost(context, journal, migration.slot)
    journal.advance(Phase.COPYING, Phase.TAILING, {"copied_epochs": len(journal.epochs())})


def _finish_shard(url: str, jobs: int, start: LSN) -> None:
    run_stage(url, "primary_keys", jobs=jobs)
    place("copy.keys_built")
    analyze(url, jobs=jobs)
    with session(url, "position") as connection:
        with connection.transaction():
            set_position(connection, start)
            place("copy.before_position_commit")
        place("copy.position_set")

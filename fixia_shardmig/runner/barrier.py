"""Brings source and shards to one LSN and opens a snapshot on each side there, while writes go on.

Transactions that are older than us are waited for first: a slot is made only once they have ended, and the tail need
not stand still for so long. Then the tail holds, then a temporary slot gives the source's snapshot at an LSN X that
cannot be behind the tail, then the tail goes exactly to X and holds again until the shards' snapshots are open
(docs/explanation/barrier.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.way_back import SourceBooks, set_back_limits
from fixia_shardmig.model.errors import TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.replication import replication_connection
from fixia_shardmig.postgres.sessions import connect, scalar, session
from fixia_shardmig.postgres.slots import SlotSnapshot, create_slot, emit_marker
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.copying import naming_blockers
from fixia_shardmig.tail.tail import MARKER_PREFIX
from fixia_shardmig.verify.snapshots import SnapshotRef

BARRIER_S = 120.0
"""How long the tail may be held in all; then it goes on by itself and the verify has to be started again."""

SLOT_S = 120.0
"""How long a slot may wait for older transactions; they are named meanwhile."""

POLL_S = 0.02
MOMENTS_TRIED = 20
"""Moments of the way back that are looked at until one has no contested row."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One LSN with a snapshot of every side at it."""

    lsn: LSN
    source: SnapshotRef
    shards: dict[str, SnapshotRef]
    held_ms: int


@contextmanager
def moment(context: Context, journal: Journal, check_tail: Callable[[], None]) -> Iterator[Moment]:
    """Make the barrier; the snapshots last as long as the block.

    Args:
        context: The migration.
        journal: Of this thread.
        check_tail: From `tail_running`: raises when there is no tail to wait for any more.
    """
    with ExitStack() as stack:
        with _slot(context, context.shard_map.source.url, f"shardmig_verify_{context.shard_map.name}_before"):
            pass
        with holding(context, journal, check_tail, stack) as held:
            shards = {
                name: own_snapshot(endpoint.url, f"snapshot {name}", stack)
                for name, endpoint in context.shard_map.shards.items()
            }
        held_ms = round((time.monotonic() - held.began) * 1000)
        journal.event("barrier", lsn=str(held.lsn), held_ms=held_ms)
        yield Moment(held.lsn, held.source, shards, held_ms)


@contextmanager
def moment_of_the_way_back(context: Context, journal: Journal, check_tail: Callable[[], None]) -> Iterator[Moment]:
    """Make the barrier once the shards have the writes: each stream at an LSN of its own, the source right there.

    `lsn` of the moment is that of the shard with the journal. Rows that are contested just then are not comparable, so
    another moment is looked for.

    Raises:
        TemporaryError: Rows were contested at each moment.
    """
    for _ in range(MOMENTS_TRIED):
        with ExitStack() as stack:
            found = _try_way_back(context, journal, check_tail, stack)
            if found is not None:
                journal.event("barrier", lsn=str(found.lsn), held_ms=found.held_ms)
                yield found
                return
    raise TemporaryError(
        f"rows were contested at {MOMENTS_TRIED} moments", hint="when fewer users move between shards: shardmig verify"
    )


def _try_way_back(
    context: Context, journal: Journal, check_tail: Callable[[], None], stack: ExitStack
) -> Moment | None:
    barrier = journal.request_barrier("verify", BARRIER_S)
    try:
        _wait(context, check_tail, lambda: _flag(journal, barrier, "held"), otherwise="the tail does not answer")
        began = time.monotonic()
        limits, shards = {}, {}
        for name, endpoint in context.shard_map.shards.items():
            limits[name], shards[name] = _snapshot_at_lsn(context, endpoint.url, name, stack)
        set_back_limits(journal, barrier, limits)
        for name, endpoint in context.shard_map.shards.items():
            with session(endpoint.url, f"barrier {name}") as connection:
                emit_marker(connection, MARKER_PREFIX, b"barrier")
        _wait(
            context,
            check_tail,
            lambda: _flag(journal, barrier, "reached"),
            otherwise="the tail of the way back does not reach the barrier",
        )
        with session(context.shard_map.source.url, "barrier") as source:
            if SourceBooks(source).contested_count():
                return None
        at_source = own_snapshot(context.shard_map.source.url, "snapshot source", stack)
        held_ms = round((time.monotonic() - began) * 1000)
        return Moment(limits[context.shard_map.journal_shard], at_source, shards, held_ms)
    finally:
        with suppress(psycopg.Error):
            journal.release_barrier(barrier)


@dataclass(frozen=True, slots=True)
class Held:
    """The source's snapshot at the LSN at which every shard stands now; `began` is when the tail was held."""

    lsn: LSN
    source: SnapshotRef
    began: float


@contextmanager
def holding(context: Context, journal: Journal, check_tail: Callable[[], None], stack: ExitStack) -> Iterator[Held]:
    """Have every shard stand at one LSN for as long as the block lasts; the source's snapshot lasts as the stack."""
    barrier = journal.request_barrier("verify", BARRIER_S)
    place("barrier.requested")
    try:
        _wait(context, check_tail, lambda: _flag(journal, barrier, "held"), otherwise="the tail does not answer")
        began = time.monotonic()
        lsn, source = _source_snapshot(context, stack)
        journal.set_barrier(barrier, lsn)
        place("barrier.set")
        with session(context.shard_map.source.url, "barrier") as connection:
            emit_marker(connection, MARKER_PREFIX, b"barrier")
        _wait(
            context,
            check_tail,
            lambda: _flag(journal, barrier, "reached"),
            otherwise=f"the tail does not reach {lsn}",
        )
        yield Held(lsn, source, began)
    finally:
        with suppress(psycopg.Error):  # a journal that is gone lets it expire, and must not hide why
            place("barrier.before_release")
            journal.release_barrier(barrier)
            place("barrier.released")


def _flag(journal: Journal, barrier_id: int, name: str) -> bool:
    barrier = journal.barrier(barrier_id)
    if barrier is None or barrier.expired or barrier.released:
        raise TemporaryError(
            f"the tail was held for {BARRIER_S:.0f} s without result, and goes on", hint="shardmig verify"
        )
    return bool(getattr(barrier, name))


def _wait(context: Context, check_tail: Callable[[], None], reached: Callable[[], bool], *, otherwise: str) -> None:
    deadline = time.monotonic() + BARRIER_S
    while not reached():
        check_tail()
        context.refuse_if_stopped("waiting for the barrier", "shardmig verify")
        if time.monotonic() > deadline:
            raise TemporaryError(otherwise, hint="shardmig status shows the tail; then: shardmig verify")
        time.sleep(POLL_S)


def _source_snapshot(context: Context, stack: ExitStack) -> tuple[LSN, SnapshotRef]:
    """Take the snapshot of a temporary slot over into a session of its own, and let the slot go at once."""
    return _snapshot_at_lsn(context, context.shard_map.source.url, "source", stack)


def _snapshot_at_lsn(context: Context, url: str, side: str, stack: ExitStack) -> tuple[LSN, SnapshotRef]:
    number = 0 if side == "source" else 1 + context.shard_map.shard_names.index(side)
    name = f"shardmig_verify_{context.shard_map.name}{f'_{number}' if number else ''}"
    with _slot(context, url, name) as made:
        holder = connect(url, "verify snapshot")
        stack.callback(holder.close)
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        holder.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(made.snapshot_name)))
        return made.lsn, SnapshotRef(url, scalar(holder, "SELECT pg_export_snapshot()"))


@contextmanager
def _slot(context: Context, url: str, name: str) -> Iterator[SlotSnapshot]:
    """Make a temporary slot once older transactions have ended; it is gone with the block."""
    with replication_connection(url, "verify slot") as walsender:
        with naming_blockers(context, walsender, next_command="shardmig verify", url=url, within_s=SLOT_S):
            made = create_slot(walsender, name, temporary=True)
        yield made


def own_snapshot(url: str, purpose: str, stack: ExitStack) -> SnapshotRef:
    """Open a snapshot of a database as it is now, held by a session until the stack unwinds."""
    holder = connect(url, purpose)
    stack.callback(holder.close)
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return SnapshotRef(url, scalar(holder, "SELECT pg_export_snapshot()"))

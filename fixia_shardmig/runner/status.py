"""Says where a migration stands, from the journal and the source's slot. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fixia_shardmig.cutover.back_gates import rollback_possible
from fixia_shardmig.journal.control import read_control
from fixia_shardmig.journal.journal import Journal, position
from fixia_shardmig.journal.records import Chunk, Migration, TailState
from fixia_shardmig.journal.way_back import BackState, back_state
from fixia_shardmig.model.errors import ShardmigError, TemporaryError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.phase import Phase, Writer, writer_in
from fixia_shardmig.model.throttle import Control, Pace
from fixia_shardmig.postgres.sessions import insert_lsn, session
from fixia_shardmig.postgres.slots import BEGIN_AGAIN, SlotState
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.returning import has_way_back
from fixia_shardmig.runner.slot_guard import Level
from fixia_shardmig.runner.slot_watch import SlotLook, look_at
from fixia_shardmig.runner.spooling import SpoolStatus, spool_status, with_spool
from fixia_shardmig.runner.throttling import current_pace
from fixia_shardmig.tail.back import FOLLOWING as BACK_FOLLOWING

FRESH_S = 5.0
"""A tail that has said nothing for longer is not running."""

NEXT_STEPS: dict[Phase, tuple[str, ...]] = {
    Phase.PLANNED: ("shardmig copy --resume",),
    Phase.COPYING: ("shardmig copy --resume",),
    Phase.TAILING: ("shardmig tail", "shardmig verify"),
    Phase.VERIFIED: ("shardmig cutover --dry-run", "shardmig cutover"),
    Phase.FENCED: ("shardmig cutover --resume",),
    Phase.SWITCHED: ("shardmig tail", "shardmig rollback --dry-run", "shardmig finalize"),
    Phase.ROLLING_BACK: ("shardmig rollback --resume",),
    Phase.ROLLED_BACK: ("shardmig finalize", "shardmig abort --drop-targets"),
}


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far the copy of one table is; `rows` as read from the source so far."""

    table: str
    chunks: int
    chunks_done: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WayBackStatus:
    """Whether a rollback is possible, and how far the shards' writes are back on the source."""

    possible: bool
    why_not: str
    state: BackState | None

    def to_json(self) -> dict[str, Any]:
        """Return the `way_back` part of the status."""
        state = self.state
        return {
            "rollback_possible": self.possible,
            "why_not": self.why_not,
            "positions": {shard: str(lsn) for shard, lsn in state.applied.items()} if state else {},
            "lag_bytes": dict(state.lag_bytes) if state else {},
            "transactions": state.transactions if state else 0,
            "changes": state.changes if state else 0,
            "contested": state.contested if state else 0,
            "missed": state.missed if state else 0,
            "age_s": round(state.age_s, 1) if state else None,
            "blocked_by": state.blocked_by if state else "",
            "stopped_by": state.stopped_by if state else "",
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Everything `shardmig status` shows. `migration` is None where none was begun."""

    migration: Migration | None
    tables: tuple[TableProgress, ...]
    positions: dict[str, LSN | None]
    source_lsn: LSN | None
    slot: SlotLook | None
    tail: TailState | None
    driver: str | None
    next_steps: tuple[str, ...]
    problems: tuple[str, ...]
    spool: SpoolStatus | None = None
    way_back: WayBackStatus | None = None
    control: Control = field(default_factory=Control)
    pace: Pace | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def lag_bytes(self) -> int | None:
        """Return how much WAL the slowest shard is behind the source."""
        known = [lsn for lsn in self.positions.values() if lsn is not None]
        if self.source_lsn is None or not known:
            return None
        return max(0, self.source_lsn - min(known))

    @property
    def tail_runs(self) -> bool:
        """Whether a tail has spoken lately."""
        return self.tail is not None and self.tail.age_s < FRESH_S and not self.tail.stopped_by

    @property
    def lag_s(self) -> float | None:
        """Return how old the newest applied commit is while more is waiting, 0 when nothing is; None without a tail."""
        if not self.tail_runs or self.tail is None:
            return None
        if self.tail.applied_lsn >= self.tail.source_lsn or self.tail.applied_commit_time is None:
            return 0.0
        return max(0.0, (self.now - self.tail.applied_commit_time).total_seconds())

    @property
    def eta_s(self) -> float | None:
        """Return 0 when caught up, else None: a rate in changes says nothing of the bytes that are left."""
        return 0.0 if self.lag_s == 0.0 else None

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `status` part."""
        migration, tail = self.migration, self.tail
        state = self.slot.seen.state if self.slot else None
        return {
            "phase": migration.phase.value if migration else None,
            "writer": writer_in(migration.phase).value if migration else "source",
            "epoch": migration.routing_epoch if migration else 0,
            "tables": [
                {"table": t.table, "chunks": t.chunks, "chunks_done": t.chunks_done, "rows": t.rows, "bytes": t.bytes}
                for t in self.tables
            ],
            "positions": {name: str(lsn) if lsn else None for name, lsn in self.positions.items()},
            "lag_bytes": self.lag_bytes,
            "lag_s": round(self.lag_s, 3) if self.lag_s is not None else None,
            "retained_wal_bytes": state.retained_wal_bytes if state else None,
            "slot": _slot_json(self.slot),
            "spool": self.spool.to_json() if self.spool else None,
            "rates": {"changes_per_s": round(tail.changes_per_s, 1) if self.tail_runs and tail else 0.0},
            "tail": _tail_json(tail) if tail else None,
            "way_back": self.way_back.to_json() if self.way_back else None,
            "throttle": {"paused": self.control.paused, **(self.pace.to_json() if self.pace else {})},
            "driver": self.driver,
            "evidence": migration.evidence if migration else {},
            "problems": list(self.problems),
            "eta_s": self.eta_s,
        }


def _slot_json(look: SlotLook | None) -> dict[str, Any] | None:
    if look is None or look.seen.state is None:
        return None
    slot, room = look.seen.state, look.seen.room
    growth = look.seen.growth_bytes_per_s
    times = [danger.eta_s for danger in look.dangers if danger.eta_s is not None]
    return {
        "active": slot.active,
        "active_pid": slot.active_pid,
        "restart_lsn": str(slot.restart_lsn) if slot.restart_lsn else None,
        "confirmed_flush_lsn": str(slot.confirmed_flush_lsn) if slot.confirmed_flush_lsn else None,
        "wal_status": slot.wal_status,
        "safe_wal_size": slot.safe_wal_size,
        "level": look.level.name.lower(),
        "warnings": [str(danger) for danger in look.dangers],
        "growth_bytes_per_s": round(growth) if growth is not None else None,
        "loss_eta_s": round(min(times)) if times else None,
        "max_slot_wal_keep_size": room.keep_bytes,
        "wal_bytes": room.wal_bytes,
        "disk_free_bytes": room.free_bytes,
        "xmin_age": slot.xmin_age,
        "catalog_xmin_age": slot.catalog_xmin_age,
    }


def _tail_json(tail: TailState) -> dict[str, Any]:
    return {
        "applied_lsn": str(tail.applied_lsn),
        "transactions": tail.transactions,
        "changes": tail.changes,
        "moved_rows": tail.moved_rows,
        "conflicts": tail.conflicts,
        "age_s": round(tail.age_s, 1),
        "stopped_by": tail.stopped_by,
    }


def status(context: Context) -> Status:
    """Read the journal, the shards' positions and the slot. A server that does not answer is a problem, not an error.

    Only of the journal's there has to be an answer.
    """
    with context.journal() as journal:
        migration = journal.find()
        if migration is None:
            return Status(None, (), {}, None, None, None, None, ("shardmig plan", "shardmig copy"), ())
        problems: list[str] = []
        positions = _positions(context, problems)
        source_lsn, slot = _source(context, migration, problems)
        way_back = _way_back(context, migration, journal, problems)
        spool = spool_status(migration)
        if spool and spool.problem:
            problems.append(spool.problem)
        tail = journal.tail_state()
        if tail and tail.conflicts:
            problems.append(f"{tail.conflicts} changes hit no row: shardmig verify finds what differs")
        if tail and tail.stopped_by and tail.stopped_by != "stopped":
            problems.append(f"the tail stopped: {tail.stopped_by}")
        return Status(
            migration,
            _tables(journal.chunks()),
            positions,
            source_lsn,
            slot,
            tail,
            journal.holder("driver"),
            _next_steps(migration, journal),
            tuple(problems),
            spool,
            way_back,
            read_control(journal.connection),
            current_pace(journal),
        )


def _way_back(context: Context, migration: Migration, journal: Journal, problems: list[str]) -> WayBackStatus | None:
    """Look at the way back of a migration whose writes have moved; a slot that holds much WAL is a problem."""
    if migration.phase not in BACK_FOLLOWING:
        return None
    slots: dict[str, SlotState | None] = {}
    for name, endpoint in context.shard_map.shards.items():
        slot = context.shard_map.back_name(name)
        try:
            with session(endpoint.url, "status") as connection:
                look = look_at(connection, slot, {})
        except ShardmigError:
            slots[name] = None
            continue
        slots[name] = look.seen.state
        if has_way_back(migration):
            bad = {Level.WARNING, Level.CRITICAL, Level.LOST}
            problems += [f"shard {name}: {danger}" for danger in look.dangers if danger.level in bad]
    state = back_state(journal)
    possible, why_not = rollback_possible(migration, state, slots)
    if state and state.stopped_by and state.stopped_by != "stopped":
        problems.append(f"the tail of the way back stopped: {state.stopped_by}")
    elif possible and (state is None or state.age_s > FRESH_S):
        problems.append("nobody brings the shards' writes back, and their slots hold WAL meanwhile: shardmig tail")
    return WayBackStatus(possible, why_not, state)


_DRIVERS = ("shardmig tail", "shardmig copy")


def _next_steps(migration: Migration, journal: Journal) -> tuple[str, ...]:
    steps = tuple(with_spool(step, migration) for step in NEXT_STEPS.get(migration.phase, ()))
    running = journal.holder("driver") is not None
    return tuple(step for step in steps if not (running and step.startswith(_DRIVERS)))


def _tables(chunks: list[Chunk]) -> tuple[TableProgress, ...]:
    tables: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        tables.setdefault(str(chunk.table), []).append(chunk)
    return tuple(
        TableProgress(
            name,
            len(listed),
            sum(chunk.done_epoch is not None for chunk in listed),
            sum(chunk.rows or 0 for chunk in listed),
            sum(chunk.bytes or 0 for chunk in listed),
        )
        for name, listed in tables.items()
    )


def _positions(context: Context, problems: list[str]) -> dict[str, LSN | None]:
    found: dict[str, LSN | None] = {}
    for name, endpoint in context.shard_map.shards.items():
        try:
            with session(endpoint.url, "status") as connection:
                found[name] = position(connection)
        except ShardmigError as error:
            found[name] = None
            problems.append(f"shard {name} does not answer: {error.message}")
    return found


def _source(context: Context, migration: Migration, problems: list[str]) -> tuple[LSN | None, SlotLook | None]:
    """Look at the slot where the migration needs one, or there is one; not at a source that does not answer."""
    try:
        return _source_that_answers(context, migration, problems)
    except TemporaryError as error:
        problems.append(
            f"the source does not answer: {error.message}; all else here is the journal's and the shards' word"
        )
        return None, None


def _source_that_answers(
    context: Context, migration: Migration, problems: list[str]
) -> tuple[LSN | None, SlotLook | None]:
    with session(context.shard_map.source.url, "status") as source:
        look = look_at(source, migration.slot, migration.evidence)
        moved = writer_in(migration.phase) is Writer.SHARDS or migration.phase is Phase.ROLLED_BACK
        needed = migration.slot_lsn is not None and not moved
        if not needed and look.seen.state is None:
            return insert_lsn(source), None
        problems += [str(danger) for danger in look.dangers if danger.level in {Level.WARNING, Level.CRITICAL}]
        problems += [f"{danger.text}: {BEGIN_AGAIN}" for danger in look.dangers if danger.level is Level.LOST]
        return insert_lsn(source), look

"""Shows a status as one block of text."""

from __future__ import annotations

from datetime import UTC

from fixia_shardmig.model.phase import writer_in
from fixia_shardmig.runner.progress import mib
from fixia_shardmig.runner.slot_guard import Level
from fixia_shardmig.runner.status import FRESH_S, Status, WayBackStatus


def render_status(status: Status) -> str:
    """Return the block: what stands, how far, what is wrong."""
    migration = status.migration
    if migration is None:
        return "no migration was begun"
    done = sum(table.chunks_done for table in status.tables)
    total = sum(table.chunks for table in status.tables)
    copied = sum(table.bytes for table in status.tables)
    lines = [
        f"migration   {migration.name}, begun {migration.created_at:%Y-%m-%d %H:%M}",
        f"phase       {migration.phase.value}; {writer_in(migration.phase).value} may write",
        f"copy        {done}/{total} chunks, {sum(t.rows for t in status.tables):,} rows, {mib(copied)}",
        "positions   " + ", ".join(f"{name} {lsn or 'none'}" for name, lsn in status.positions.items()),
        f"lag         {_behind(status)}",
        f"slot        {_slot(status)}",
        f"tail        {_tail(status)}",
    ]
    if status.way_back:
        lines += _way_back(status.way_back)
    if slowed := _throttle(status):
        lines.append(f"throttle    {slowed}")
    if status.spool:
        lines.append(f"spool       {status.spool.text()}")
    if "verified_at" in migration.evidence:
        outcome = "equal" if migration.evidence.get("verified_equal") else "differences"
        evidence = migration.evidence
        lines.append(f"verified    {outcome} at {evidence['verified_lsn']}, {evidence['verified_at']}")
    lines += [f"problem     {problem}" for problem in status.problems]
    return "\n".join(lines)


def _behind(status: Status) -> str:
    if status.lag_bytes is None:
        return "unknown"
    seconds = f", {status.lag_s:.1f} s" if status.lag_s is not None else ""
    return f"{mib(status.lag_bytes)} of WAL behind the source{seconds}"


def _slot(status: Status) -> str:
    look = status.slot
    if look is None:
        return "none"
    slot = look.seen.state
    if slot is None:
        return "gone"
    reader = f"read by pid {slot.active_pid}" if slot.active else "nobody reads from it"
    growth = look.seen.growth_bytes_per_s
    rate = f" ({mib(growth)}/s more)" if growth is not None and growth > 0 else ""
    notices = [str(danger) for danger in look.dangers if danger.level is Level.NOTICE]
    return "; ".join([f"{slot.wal_status}, holds {mib(slot.retained_wal_bytes or 0)} of WAL{rate}, {reader}", *notices])


def _way_back(way_back: WayBackStatus) -> list[str]:
    state = way_back.state
    lines = [f"rollback    possible: {'yes' if way_back.possible else f'no: {way_back.why_not}'}"]
    if state is None:
        return [*lines, "way back    has not run yet"]
    behind = ", ".join(f"{shard} {mib(behind_bytes)}" for shard, behind_bytes in state.lag_bytes.items())
    runs = "runs" if state.age_s < FRESH_S and not state.stopped_by else "does not run"
    waits = f"; waits: {state.blocked_by}" if state.blocked_by else ""
    lines.append(
        f"way back    {runs}; {state.changes:,} changes in its last run, behind: {behind};"
        f" {state.contested:,} rows contested, {state.missed:,} missed{waits}"
    )
    return lines


def _throttle(status: Status) -> str:
    """Say what slows the work down and since when; before it runs, what it will find."""
    pace = status.pace
    if pace is None:
        return "paused; nothing runs" if status.control.paused else ""
    if not pace.verdict.kind or pace.since is None:
        return ""
    return f"{pace.verdict.reason} (since {pace.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"


def _tail(status: Status) -> str:
    tail = status.tail
    if tail is None:
        return "has not run yet"
    runs = "runs" if status.tail_runs else "does not run"
    return (
        f"{runs}; {tail.transactions:,} transactions, {tail.changes:,} changes in its last run"
        f" ({tail.changes_per_s:,.0f}/s), {tail.moved_rows:,} rows moved, {tail.conflicts} missed"
    )

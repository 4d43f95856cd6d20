"""Runs the tail of the way back: the shards' writes into the source, until finalize or a rollback ends it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fixia_shardmig.cutover.back_gates import is_prepared
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.journal.way_back import BackState
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.throttle import Limits
from fixia_shardmig.postgres.sessions import insert_lsn, session
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.runner.context import Context, spool_directory
from fixia_shardmig.runner.progress import mib
from fixia_shardmig.runner.throttling import throttling
from fixia_shardmig.tail.back import FOLLOWING, BackTail
from fixia_shardmig.tail.tail import MARKER_PREFIX

SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class BackResult:
    """What this run has brought back: by shard up to where, and how much."""

    applied: dict[str, LSN] = field(default_factory=dict)
    transactions: int = 0
    changes: int = 0
    missed: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the `way_back` part of the tail's result."""
        return {
            "applied": {shard: str(lsn) for shard, lsn in self.applied.items()},
            "transactions": self.transactions,
            "changes": self.changes,
            "missed": self.missed,
            "seconds": round(self.seconds, 3),
        }


def has_way_back(migration: Migration) -> bool:
    """Whether a tail of the way back has work: the shards have, or had, the writes and it was prepared."""
    return is_prepared(migration) and migration.phase in FOLLOWING


def bring_back(
    context: Context, journal: Journal, *, caught_up: bool = False, limits: Limits | None = None
) -> BackResult:
    """Follow the shards; `caught_up` ends it once the source has everything from before now.

    The caller holds the driver's lock. `limits` say how fast it may go, and what holds it; operators' `pause` and
    `throttle` do too.

    Raises:
        RefusedError: A conflict, or a change that cannot be brought back; the slots keep what follows.
    """
    began = time.monotonic()
    until = _now_on_shards(context) if caught_up else None
    if not caught_up:
        context.say("the shards have the writes; bringing them back into the source (Ctrl-C ends it, tail goes on)")
    said, spool = _Said(context), spool_directory(context.shard_map)
    with throttling(context, limits or Limits()) as throttle:
        tail = BackTail(
            context.shard_map, context.catalog, journal=journal, spool=spool, on_state=said.tell, pace=throttle.pace
        )
        try:
            totals = tail.run(context.stop, until=until)
        finally:
            tail.close()
    seconds = time.monotonic() - began
    phase = journal.get().phase
    if phase not in FOLLOWING:
        context.say(f"the way back is over: the migration is {phase.value.replace('_', ' ')}")
    return BackResult(totals.applied, totals.transactions, totals.changes, totals.missed, seconds)


def _now_on_shards(context: Context) -> dict[str, LSN]:
    """Return where each shard is now, with a marker behind it that brings its stream past it."""
    found = {}
    for name, endpoint in context.shard_map.shards.items():
        with session(endpoint.url, "way back") as connection:
            found[name] = insert_lsn(connection)
            emit_marker(connection, MARKER_PREFIX, b"catch-up")
    return found


class _Said:
    """Tells people every few seconds how it goes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._at = 0.0

    def tell(self, state: BackState) -> None:
        now = time.monotonic()
        if now - self._at < SAY_EVERY_S:
            return
        self._at = now
        behind = max(state.lag_bytes.values(), default=0)
        waits = f"; waits: {state.blocked_by}" if state.blocked_by else ""
        self._context.say(
            f"way back: {state.transactions:,} transactions, {state.changes:,} changes ({state.changes_per_s:,.0f}/s),"
            f" {state.contested:,} rows contested, {mib(behind)} behind{waits}"
        )

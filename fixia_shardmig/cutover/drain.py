"""Proves that every write from before the fence has reached the shards: each shard's own position is past it.

Not a lag of 0, not silence, not a timeout (pitfalls 42, 43): the position commits with the rows it speaks of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal, position
from fixia_shardmig.model.errors import RefusedError, StoppedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.sessions import Connection, insert_lsn
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.tail.tail import MARKER_PREFIX

POLL_S: Final = 0.001
"""Clients wait for the last position; a look is one short statement a shard."""

TAIL_LOOK_S: Final = 0.1
"""How often the journal is asked whether the tail has given up, so that nobody waits for the deadline in vain."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker in the WAL. Everything that had committed when `begins_at` was read is before it."""

    begins_at: LSN
    ends_at: LSN


@dataclass(frozen=True, slots=True)
class Drained:
    """Which shard had applied how much when all of them were past a marker."""

    marker: Marker
    positions: Mapping[str, LSN] = field(default_factory=dict)


def write_marker(source: Connection, content: bytes) -> Marker:
    """Write a marker. Its begin is the insert position, so asynchronous commits are before it too (pitfall 42)."""
    begins_at = insert_lsn(source)
    return Marker(begins_at, emit_marker(source, MARKER_PREFIX, content))


def wait_applied(
    sides: Sides, marker: Marker, *, journal: Journal, deadline: float, stop: Event | None = None
) -> Drained:
    """Wait until every shard has applied everything before a marker.

    Raises:
        RefusedError: Not before the deadline (pitfall 72), or the tail has stopped.
        StoppedError: A signal.
    """
    positions: dict[str, LSN] = {}
    looked = time.monotonic()
    while True:
        for name, connection in sides.shards.items():
            if name not in positions and (found := position(connection)) is not None and found >= marker.begins_at:
                positions[name] = found
        if len(positions) == len(sides.shards):
            return Drained(marker, positions)
        if stop is not None and stop.is_set():
            raise StoppedError("stopped while draining", hint="shardmig cutover")
        now = time.monotonic()
        if now >= deadline:
            raise RefusedError(_late(sides, marker, positions), hint="shardmig tail must run and be caught up")
        if now - looked >= TAIL_LOOK_S:
            looked = now
            _refuse_stopped_tail(journal)
        time.sleep(POLL_S)


def all_applied(sides: Sides, lsn: LSN) -> bool:
    """Whether every shard has applied everything before an LSN."""
    found = [position(connection) for connection in sides.shards.values()]
    return all(one is not None and one >= lsn for one in found)


def _late(sides: Sides, marker: Marker, positions: Mapping[str, LSN]) -> str:
    late = [
        f"{name} at {position(connection) or 'nothing'}"
        for name, connection in sides.shards.items()
        if name not in positions
    ]
    return f"the marker at {marker.begins_at} was not applied in time: {', '.join(late)}"


def _refuse_stopped_tail(journal: Journal) -> None:
    state = journal.tail_state()
    if state is not None and state.stopped_by:
        raise RefusedError(f"the tail has stopped: {state.stopped_by}", hint="shardmig tail says why")

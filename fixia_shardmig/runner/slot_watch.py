"""Watches the slot while copy and tail run: says once a level how near its loss is, and ends the work when it is lost.

Has sessions of its own on source and journal. One that fails is opened again at the next look: to watch is no reason
to end what is watched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, Final

import psycopg

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.postgres.sessions import Connection, session
from fixia_shardmig.postgres.slots import SlotState, refuse_lost_slot, slot_state
from fixia_shardmig.postgres.wal_room import wal_room
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.slot_guard import Danger, Level, Observation, decide, level_of

LOOK_EVERY_S: Final = 2.0
SEEN_EVERY_S: Final = 10.0
"""How often what was seen is put into the journal, for whoever asks for the rate while nobody watches."""

RATE_OVER_S_MIN: Final = 1.0
"""Over less, a rate is noise."""

LOSS_SETTLES_S: Final = 5.0
"""The server ends a slot's reader first and marks the slot as lost then."""

SETTLE_POLL_S: Final = 0.2
SEEN: Final = "slot_seen"
"""The evidence that holds the last look: `at` (seconds since 1970), `retained`, `level`."""


@dataclass(frozen=True, slots=True)
class SlotLook:
    """One look at a slot and what it means."""

    seen: Observation
    dangers: tuple[Danger, ...]
    at_s: float

    @property
    def level(self) -> Level:
        """Return the worst level."""
        return level_of(self.dangers)

    def evidence(self) -> dict[str, Any]:
        """Return what the journal keeps, from which the next look has its rate."""
        state = self.seen.state
        return {
            SEEN: {
                "at": self.at_s,
                "retained": state.retained_wal_bytes if state else None,
                "level": self.level.name.lower(),
            }
        }


def look_at(connection: Connection, slot: str, before: dict[str, Any] | None) -> SlotLook:
    """Look at a slot; `before` is the evidence of an earlier look, for the rate."""
    now = time.time()
    state = slot_state(connection, slot)
    seen = Observation(slot, state, wal_room(connection), _growth(state, now, (before or {}).get(SEEN)))
    return SlotLook(seen, decide(seen), now)


def _growth(state: SlotState | None, now: float, before: dict[str, Any] | None) -> float | None:
    if state is None or state.retained_wal_bytes is None or not before or before["retained"] is None:
        return None
    elapsed_s = now - float(before["at"])
    return (state.retained_wal_bytes - int(before["retained"])) / elapsed_s if elapsed_s >= RATE_OVER_S_MIN else None


def refuse_if_lost(context: Context, journal: Journal, slot: str) -> None:
    """Look now, and wait for a loss under way: its reader is ended a moment before the slot is marked.

    Raises:
        RefusedError: The slot is gone or lost; the journal has it as an event.
        TemporaryError: The source does not answer.
    """
    deadline = time.monotonic() + LOSS_SETTLES_S
    with session(context.shard_map.source.url, "slot") as source:
        try:
            while refuse_lost_slot(slot, slot_state(source, slot)).wal_status == "unreserved":
                if time.monotonic() >= deadline:
                    return
                time.sleep(SETTLE_POLL_S)
        except RefusedError as loss:
            journal.event("slot_lost", reason=loss.message)
            raise


class SlotWatch:
    """The watch of one run; `refuse_if_lost` is for whoever does the work."""

    def __init__(self, context: Context, slot: str) -> None:
        """Begin to look, in a thread."""
        self._context = context
        self._slot = slot
        self._ended = Event()
        self._loss: RefusedError | None = None
        self._said: set[Level] = {Level.OK}
        self._level: Level | None = None
        self._kept_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="slot guard", daemon=True)
        self._thread.start()

    def refuse_if_lost(self) -> None:
        """Raise RefusedError once a look has found the slot gone or lost."""
        if self._loss is not None:
            raise self._loss

    def close(self) -> None:
        """End the watch."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            with (
                suppress(ShardmigError, psycopg.Error),
                session(self._context.shard_map.source.url, "slot guard") as source,
                self._context.journal() as journal,
            ):
                self._look_on(source, journal)
            self._ended.wait(LOOK_EVERY_S)

    def _look_on(self, source: Connection, journal: Journal) -> None:
        before = journal.get().evidence
        while not self._ended.wait(LOOK_EVERY_S):
            look = look_at(source, self._slot, before)
            if look.level is Level.LOST:
                self._lose(look)
            self._tell(look, journal)
            if look.at_s - self._kept_at >= SEEN_EVERY_S:
                self._kept_at = look.at_s
                before = look.evidence()
                journal.add_evidence(before)

    def _lose(self, look: SlotLook) -> None:
        try:
            refuse_lost_slot(self._slot, look.seen.state)
        except RefusedError as loss:
            self._loss = loss

    def _tell(self, look: SlotLook, journal: Journal) -> None:
        """Say a level once a run; the journal gets each change of it."""
        if look.level not in self._said:
            self._said.add(look.level)
            for danger in look.dangers:
                self._context.say(str(danger))
        before, self._level = self._level, look.level
        if before is not look.level and (before is not None or look.level):
            journal.event(
                "slot_level",
                level=look.level.name.lower(),
                before=before.name.lower() if before is not None else None,
                warnings=[str(danger) for danger in look.dangers],
            )


@contextmanager
def watching_slot(context: Context, slot: str) -> Iterator[SlotWatch]:
    """Watch a slot while the block works."""
    watch = SlotWatch(context, slot)
    try:
        yield watch
    finally:
        watch.close()

"""Decides how near a slot is to its loss, and says it in words: facts in, warnings out, without a server.

A slot is lost when the source removes WAL that it still needs; the copy then has to begin again. So the warnings come
at fractions of each bound, with the time that is left at the present rate. Refuses nothing: see `slot_watch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fixia_shardmig.postgres.slots import SlotState
from fixia_shardmig.postgres.wal_room import WalRoom
from fixia_shardmig.runner.progress import mib

MINUTE_S = 60.0
HOUR_S = 3600.0


class Level(IntEnum):
    """How near the loss is."""

    OK = 0
    NOTICE = 1
    WARNING = 2
    CRITICAL = 3
    LOST = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """From which fraction of a bound on a level is reached. The first comes while half of the room is still free."""

    notice: float = 0.5
    warning: float = 0.75
    critical: float = 0.9

    def level(self, fraction: float) -> Level:
        """Return the level of a bound that is used up to a fraction."""
        if fraction >= self.critical:
            return Level.CRITICAL
        if fraction >= self.warning:
            return Level.WARNING
        return Level.NOTICE if fraction >= self.notice else Level.OK


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a slot at one moment.

    Attributes:
        state: None where there is no such slot.
        growth_bytes_per_s: How fast the retained WAL grows, negative while it shrinks; None where nobody knows yet.
    """

    name: str
    state: SlotState | None
    room: WalRoom
    growth_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Danger:
    """One reason to act, and how much time is left; None where it does not grow."""

    level: Level
    text: str
    eta_s: float | None = None

    def __str__(self) -> str:
        """Return the reason with its level and the time left."""
        left = f"; at the present rate it is lost in {_span(self.eta_s)}" if self.eta_s is not None else ""
        return f"{self.level.name.lower()}: {self.text}{left}"


def decide(seen: Observation, limits: Limits | None = None) -> tuple[Danger, ...]:
    """Return what there is to say of a slot, the worst first."""
    if seen.state is None:
        return (Danger(Level.LOST, f"replication slot {seen.name} is gone: somebody dropped it"),)
    if seen.state.wal_status == "lost":
        return (Danger(Level.LOST, f"replication slot {seen.name} is lost: WAL that it needed was removed"),)
    rules = (_kept_wal, _disk, _vacuum, _idle)
    found = [warning for rule in rules if (warning := rule(seen, seen.state, limits or Limits())).level]
    return tuple(sorted(found, key=lambda warning: -warning.level))


def level_of(warnings: tuple[Danger, ...]) -> Level:
    """Return the worst level."""
    return max((warning.level for warning in warnings), default=Level.OK)


def _kept_wal(seen: Observation, state: SlotState, limits: Limits) -> Danger:
    """Hold the retained WAL against max_slot_wal_keep_size; the server counts in whole segments, so it is asked."""
    held, safe = state.retained_wal_bytes or 0, state.safe_wal_size
    if state.wal_status == "unreserved":
        return Danger(
            Level.CRITICAL, f"slot {seen.name} holds {mib(held)} of WAL, which the next checkpoint removes", 0.0
        )
    if safe is None:
        return Danger(Level.OK, "")
    fraction = held / max(held + safe, 1)
    text = (
        f"slot {seen.name} holds {mib(held)} of WAL, {fraction:.0%} of what max_slot_wal_keep_size"
        f" ({mib(seen.room.keep_bytes or 0)}) lets it keep"
    )
    return Danger(limits.level(fraction), text, _eta_s(max(0, safe), seen.growth_bytes_per_s))


def _disk(seen: Observation, state: SlotState, limits: Limits) -> Danger:
    """Hold the retained WAL against what is free beside it: a source whose disk is full stops for everybody."""
    held, free = state.retained_wal_bytes or 0, seen.room.free_bytes
    if free is None:
        return Danger(Level.OK, "")
    fraction = held / max(held + free, 1)
    text = f"slot {seen.name} holds {mib(held)} of WAL, and the source's disk has {mib(free)} left"
    return Danger(limits.level(fraction), text, _eta_s(free, seen.growth_bytes_per_s))


def _vacuum(seen: Observation, state: SlotState, limits: Limits) -> Danger:
    """Hold the age of what vacuum may not remove against the age at which the source freezes whatever it costs."""
    age = max(state.xmin_age or 0, state.catalog_xmin_age or 0)
    fraction = age / seen.room.freeze_max_age if seen.room.freeze_max_age else 0.0
    text = f"slot {seen.name} holds vacuum back for {age:,} transactions, {fraction:.0%} of autovacuum_freeze_max_age"
    return Danger(limits.level(fraction), text)


def _idle(seen: Observation, state: SlotState, limits: Limits) -> Danger:
    """Hold how long nobody has read against idle_replication_slot_timeout, which ends a slot from 18 on."""
    timeout_s = seen.room.idle_timeout_s
    if timeout_s is None or state.inactive_s is None:
        return Danger(Level.OK, "")
    text = f"nobody has read from slot {seen.name} for {_span(state.inactive_s)} (idle_replication_slot_timeout)"
    return Danger(limits.level(state.inactive_s / timeout_s), text, max(0.0, timeout_s - state.inactive_s))


def _eta_s(left_bytes: int, growth_bytes_per_s: float | None) -> float | None:
    return left_bytes / growth_bytes_per_s if growth_bytes_per_s and growth_bytes_per_s > 0 else None


def _span(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE_S:.0f} min" if seconds < HOUR_S else f"{seconds / HOUR_S:.1f} h"

"""What a cutover is told, what it is handed, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Final

from fixia_shardmig.cutover.fence_locks import LOCK_TIMEOUT_S
from fixia_shardmig.cutover.gates import Gate, Limits
from fixia_shardmig.cutover.hooks import HOOK_TIMEOUT_S
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName

MAX_PAUSE_S: Final = 5.0
COUNT_BUDGET_S: Final = 0.5
EXPIRY_MARGIN_S: Final = 5.0
"""How long the fence outlives `max_pause`. An operator's process that is killed costs at most both together."""


@dataclass(frozen=True, slots=True)
class CutoverOptions:
    """How to cut over.

    Attributes:
        max_pause_s: From the first lock to the switch; what is not switched by then is undone.
        count_budget_s: How long rows may be counted within the pause.
        lock_timeout_s: How long one try of the fence may keep writers waiting.
        expiry_margin_s: How long the fence outlives `max_pause_s`.
        way_back: Whether what is written to the shards can come back; without it no rollback is possible.
    """

    max_pause_s: float = MAX_PAUSE_S
    dry_run: bool = False
    count_budget_s: float = COUNT_BUDGET_S
    lock_timeout_s: float = LOCK_TIMEOUT_S
    expiry_margin_s: float = EXPIRY_MARGIN_S
    way_back: bool = True
    hook_timeout_s: float = HOOK_TIMEOUT_S
    limits: Limits = field(default_factory=Limits)


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Hands:
    """What the caller lends.

    Attributes:
        enable_on_shards: Turns on what must not fire while changes are applied (`after_switch`); may be called twice.
        on_drained: Called behind the fence when every shard has everything, to open snapshots for a later proof.
        on_open: Called by a rollback as soon as the source takes writes again.
        conflicts: The tail's own count, when it runs in this process; else its published state is waited for.
        say: Takes a line of progress for people.
        stop: Set by a signal: before the switch everything is undone, after it everything is finished.
    """

    enable_on_shards: Callable[[], object]
    on_drained: Callable[[], object] | None = None
    on_open: Callable[[], object] | None = None
    conflicts: Callable[[], int] | None = None
    say: Callable[[str], None] = _silent
    stop: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class Step:
    """One step that has ended."""

    name: str
    ms: float


@dataclass(frozen=True, slots=True)
class CutoverResult:
    """How it ended. In a rehearsal `switched` is false and `pause_ms` what to expect.

    Attributes:
        pause_ms: From just before the first lock to the end of the hooks.
        counted: The tables whose rows were counted on all sides within the pause, `uncounted` those that were not.
        unfinished: What is still to do after the switch, by `shardmig cutover --resume`; empty when all is done.
    """

    switched: bool
    pause_ms: float
    steps: tuple[Step, ...]
    marker_lsn: LSN | None = None
    gates: tuple[Gate, ...] = ()
    routing_epoch: int | None = None
    counted: tuple[TableName, ...] = ()
    uncounted: tuple[TableName, ...] = ()
    unfinished: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `cutover` part."""
        return {
            "switched": self.switched,
            "pause_ms": round(self.pause_ms),
            "steps": [{"step": step.name, "ms": round(step.ms)} for step in self.steps],
            "marker_lsn": str(self.marker_lsn) if self.marker_lsn is not None else None,
            "gates": [gate.to_json() for gate in self.gates],
            "routing_epoch": self.routing_epoch,
            "counted": [str(table) for table in self.counted],
            "uncounted": [str(table) for table in self.uncounted],
            "unfinished": self.unfinished,
        }


class GatesClosedError(RefusedError):
    """A gate is closed; nothing was touched. `gates` has all of them."""

    def __init__(self, gates: tuple[Gate, ...]) -> None:
        """Name the closed ones, and how to open the first."""
        closed = [gate for gate in gates if not gate.ok]
        super().__init__(
            "; ".join(f"gate {gate.name} is closed: {gate.detail}" for gate in closed), hint=closed[0].hint
        )
        self.gates = gates

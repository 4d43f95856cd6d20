"""One run of a cutover or of a rollback: where it works, what it has done, and why it cannot go on."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from fixia_shardmig.cutover.counts import Counts
from fixia_shardmig.cutover.result import CutoverOptions, Hands, Step
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.steps import Line, tell
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import RefusedError, ShardmigError, StoppedError
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import is_open

EVIDENCE: Final = "cutover"
"""The migration's evidence of the cutover under way: owner, expires_at, fenced_at, drained_lsn, sequences_set."""

SWITCH_INTERVAL_S: Final = 0.0005


@dataclass(slots=True)
class Run:
    """One run of a cutover: where it works, who it is, and what it has done."""

    shard_map: ShardMap
    journal: Journal
    sides: Sides
    options: CutoverOptions
    hands: Hands
    owner: str
    steps: list[Step] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    story: str = EVIDENCE
    """`cutover` or `rollback`: what its events and its evidence are called."""
    began: float = field(default_factory=time.monotonic)
    """When writers were first kept waiting, by `time.monotonic`."""
    open_at: float = 0.0
    """When the writers could write again, by `time.monotonic`; 0 before that."""
    untold: list[Line] = field(default_factory=list)
    """Ends of steps that the journal hears of together with what comes next."""

    @property
    def pause_ms(self) -> float:
        """How long writers have been kept waiting, until now if they still are."""
        return ((self.open_at or time.monotonic()) - self.began) * 1000

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Journal a step before and after (pitfall 64), and time it. Its end is told with the next step's begin."""
        self._tell((f"{self.story}_step_begun", {"step": name, "owner": self.owner}))
        began = time.monotonic()
        yield
        ms = (time.monotonic() - began) * 1000
        self.steps.append(Step(name, ms))
        self.untold.append((f"{self.story}_step_ended", {"step": name, "owner": self.owner, "ms": round(ms)}))

    def keep(self, **facts: object) -> None:
        """Add to its evidence in the journal."""
        self.evidence.update(facts)
        self._tell(evidence={self.story: self.evidence})

    def event(self, event: str, **detail: object) -> None:
        """Journal what is no step, behind all that has ended."""
        self._tell((f"{self.story}_{event}", {"owner": self.owner, **detail}))

    def tell_rest(self) -> None:
        """Journal what has ended and was not told yet."""
        self._tell()

    def _tell(self, *lines: Line, evidence: Mapping[str, Any] | None = None) -> None:
        tell(self.journal, [*self.untold, *lines], evidence)
        self.untold.clear()


def refuse_late(run: Run, deadline: float, doing: str = "before the switch") -> None:
    """Raise StoppedError after a signal, RefusedError once the pause is over: there is no going on anyway (72)."""
    if run.hands.stop.is_set():
        raise StoppedError("stopped before the switch", hint=f"shardmig {run.story}")
    if time.monotonic() >= deadline:
        raise RefusedError(
            f"the pause of {run.options.max_pause_s:g} s was over {doing}",
            hint=f"shardmig {run.story} --dry-run shows what takes how long; then allow a longer --max-pause",
        )


def count_budget_s(run: Run, deadline: float) -> float:
    """Return how long rows may be counted now."""
    return min(run.options.count_budget_s, max(0.0, (deadline - time.monotonic()) / 2))


def refuse_differing(counts: Counts) -> Counts:
    """Refuse where rows do not add up; else return what was counted."""
    if counts.differing:
        raise RefusedError(f"the rows do not add up: {'; '.join(map(str, counts.differing))}", hint="shardmig verify")
    return counts


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have nothing of this process keep the thread waiting for which clients wait.

    The garbage collector does not run, and a thread that computes hands on the interpreter sooner than after the usual
    5 ms: a tail of ours may be at work beside us.
    """
    interval_s, collects = sys.getswitchinterval(), gc.isenabled()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        if collects:
            gc.enable()


def undone_because(error: BaseException, run: Run, outcome: str) -> BaseException:
    """Return the error that says why a run was undone, and how things stand; a signal's own error as it is."""
    if isinstance(error, psycopg.Error):
        error = as_shardmig_error(error, _lost_place(run), doing=run.story, next_command=f"shardmig {run.story}")
    if isinstance(error, ShardmigError):
        error.message = f"{error.message}; {outcome}"
    return error


def _lost_place(run: Run) -> str:
    """Return the URL of the server whose session is gone, for the message; the source's if all are there."""
    if not is_open(run.journal.connection):
        return run.journal.url
    lost = [name for name, connection in run.sides.shards.items() if not is_open(connection)]
    return run.shard_map.shards[lost[0]].url if lost else run.shard_map.source.url

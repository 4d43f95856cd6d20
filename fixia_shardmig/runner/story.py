"""Runs the phases one after the other, from wherever a migration stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fixia_shardmig.model.throttle import Limits
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.copying import CopyOptions, CopyResult, copy
from fixia_shardmig.runner.spooling import SpoolOptions
from fixia_shardmig.runner.tailing import TailResult, tail
from fixia_shardmig.runner.verifying import VerifyOptions, verify_now
from fixia_shardmig.verify.render import render_text
from fixia_shardmig.verify.result import VerifyResult

UNTIL_VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the phases have brought so far."""

    copy: CopyResult
    tail: TailResult
    verify: VerifyResult | None

    @property
    def equal(self) -> bool:
        """Whether nothing was found to differ."""
        return self.verify is None or self.verify.equal

    def to_json(self) -> dict[str, Any]:
        """Return the parts of the phases that ran."""
        parts: dict[str, Any] = {"copy": self.copy.to_json(), "tail": self.tail.to_json()}
        return parts | ({"verify": self.verify.to_json()} if self.verify else {})

    def text(self) -> str:
        """Return it for people."""
        lines = [
            f"copied {self.copy.rows:,} rows in {self.copy.chunks} chunks",
            f"applied {self.tail.changes:,} changes up to {self.tail.applied_lsn}",
        ]
        return "\n".join([*lines, *([render_text(self.verify)] if self.verify else [])])


def run_all(
    context: Context,
    *,
    until: str,
    jobs: int,
    on_outcome: Callable[[Outcome], None],
    spool: SpoolOptions | None = None,
    limits: Limits | None = None,
) -> Outcome:
    """Copy or go on copying, catch up, verify if asked; tell the outcome; then follow the source until stopped.

    Differences end it: what follows a wrong copy is of no use. The limits hold for copy and tail; verify's own tail
    is what somebody waits for, and goes at full speed.
    """
    limits = limits or Limits()
    copied = copy(context, CopyOptions(resume=_has_begun(context), jobs=jobs, spool=spool, limits=limits))
    kept = spool.directory if spool else None
    tailed = tail(context, caught_up=True, jobs=jobs, spool=kept, limits=limits)
    context.refuse_if_stopped("tailing", "shardmig run")
    outcome = Outcome(copied, tailed, verify_now(context, VerifyOptions(jobs=jobs)) if until == UNTIL_VERIFY else None)
    on_outcome(outcome)
    if outcome.equal:
        tail(context, jobs=jobs, spool=kept, limits=limits)
    return outcome


def _has_begun(context: Context) -> bool:
    with context.journal() as journal:
        return journal.find() is not None

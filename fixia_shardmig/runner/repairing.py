"""Verifies, puts right what differs, and verifies again.

The tail remembers where rows are and would be wrong about those that a repair moves. So a repair has the tail to
itself: it brings the shards to an LSN with one of its own, ends that, writes, and lets a new one begin.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.errors import HeldError, RefusedError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.runner.barrier import holding
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.tailing import tail_of_our_own
from fixia_shardmig.runner.verifying import VerifyOptions, operating, verify_once
from fixia_shardmig.verify.canonical import HashForm
from fixia_shardmig.verify.comparison import Difference
from fixia_shardmig.verify.render import action_text, render_actions, render_text
from fixia_shardmig.verify.repair import RepairAction, actions_for, repair
from fixia_shardmig.verify.result import VerifyResult

EVENT_ROWS_MAX = 200
"""Rows that the audit event names; it counts all of them."""


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """What a repair found, what it did or would do, and what was found afterwards (nothing after a dry run)."""

    before: VerifyResult
    actions: tuple[RepairAction, ...]
    after: VerifyResult | None
    dry_run: bool

    @property
    def last(self) -> VerifyResult:
        """Return the comparison that counts."""
        return self.after or self.before

    def to_json(self) -> dict[str, Any]:
        """Return verify's part of the JSON with the repair's beside it."""
        actions = [
            {"act": one.act, "table": str(one.table), "shard": one.shard, "key": dict(one.key), "copies": one.copies}
            for one in self.actions
        ]
        found = self.before.differences_total
        return self.last.to_json() | {"repair": {"dry_run": self.dry_run, "found": found, "actions": actions}}

    def text(self) -> str:
        """Return it for people."""
        return "\n\n".join((render_text(self.last), render_actions(self.actions, dry_run=self.dry_run)))


def repair_now(context: Context, options: VerifyOptions | None = None, *, dry_run: bool = False) -> RepairOutcome:
    """Compare both sides, put right the rows that were named, and compare again.

    Args:
        context: The migration.
        options: How to compare, before and afterwards.
        dry_run: Only say what would be done.

    Raises:
        HeldError: A tail of another process is at work.
        RefusedError: A row would not come right; nothing was written. Or the shards have the writes by now.
    """
    options = options or VerifyOptions()
    with operating(context) as journal:
        _refuse_after_switch(journal)
        if not dry_run:
            _refuse_other_tail(journal)
        before = verify_once(context, journal, options)
        if dry_run or not before.differences:
            return RepairOutcome(before, actions_for(before.differences), None, dry_run)
        context.say(f"putting right {len(before.differences):,} named rows of {before.differences_total:,}")
        actions = _repair(context, journal, before.differences, HashForm(before.hash_form))
        after = verify_once(context, journal, replace(options, resume=False))
    return RepairOutcome(before, actions, after, dry_run)


def _refuse_after_switch(journal: Journal) -> None:
    """Refuse to make the shards what the source is once they are the writers: it would undo what was written since."""
    if journal.get().phase is Phase.SWITCHED:
        raise RefusedError(
            "the shards have the writes since the cutover, so what differs is the source",
            hint="shardmig verify names it; to take the writes back: shardmig rollback --dry-run",
        )


def _refuse_other_tail(journal: Journal) -> None:
    holder = journal.holder("driver")
    if holder:
        raise HeldError(
            f"{holder} applies changes, and would not know of rows that a repair moves",
            hint="end that tail (it loses nothing), then: shardmig verify --repair",
        )


def _repair(
    context: Context, journal: Journal, differences: Collection[Difference], form: HashForm
) -> tuple[RepairAction, ...]:
    with ExitStack() as stack:
        tail = stack.enter_context(tail_of_our_own(context))
        held = stack.enter_context(holding(context, journal, tail.check, stack))
        tail.end_for_good()
        journal.event("repair_began", lsn=str(held.lsn), rows=_told(actions_for(differences)))
        actions = repair(
            context.shard_map, source=held.source, differences=differences, form=form, still_alone=tail.check_alone
        )
        journal.event("repaired", lsn=str(held.lsn), count=len(actions), rows=_told(actions))
    return actions


def _told(actions: Collection[RepairAction]) -> list[str]:
    return [action_text(action) for action in islice(actions, EVENT_ROWS_MAX)]

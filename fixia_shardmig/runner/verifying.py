"""Verifies at one LSN and records the outcome: what the cutover's gates look for."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.errors import MappingError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.runner.barrier import Moment, moment
from fixia_shardmig.runner.context import Context, refuse_other_plan
from fixia_shardmig.runner.progress import EVERY_S
from fixia_shardmig.runner.tailing import tail_running
from fixia_shardmig.verify.result import VerifyResult
from fixia_shardmig.verify.verification import Progress, verify

VERIFIABLE = frozenset({Phase.TAILING, Phase.VERIFIED})


def verify_now(context: Context, *, tables: Collection[str] = (), jobs: int = 2) -> VerifyResult:
    """Compare both sides at one LSN while writes go on, with another process's tail or one of our own.

    Args:
        context: The migration.
        tables: Only these, by their names in the mapping; then the phase stays as it is.
        jobs: Scans at a time.

    Raises:
        RefusedError: It is too early or too late for it.
        HeldError: Another operator's command works on the migration.
        TemporaryError: The barrier was not reached in time.
    """
    chosen = chosen_tables(context, tables)
    with operating(context) as journal:
        return verify_once(context, journal, tables=chosen, jobs=jobs)


@contextmanager
def operating(context: Context) -> Iterator[Journal]:
    """Hold the migration for an operator's verify, in a phase in which the two sides are meant to be equal."""
    with context.journal() as journal, journal.holding("operator"):
        migration = journal.get()
        if migration.phase not in VERIFIABLE:
            raise RefusedError(
                f"in phase {migration.phase.value} the two sides are not meant to be equal", hint="shardmig status"
            )
        refuse_other_plan(context, migration, journal)
        yield journal


def verify_once(context: Context, journal: Journal, *, tables: Collection[TableName] | None, jobs: int) -> VerifyResult:
    """Compare at one LSN and record the outcome."""
    with tail_running(context) as check_tail, moment(context, journal, check_tail) as at:
        context.say(f"comparing at {at.lsn}; the tail was held for {at.held_ms} ms")
        result = compare(context, at, tables=tables, jobs=jobs)
    _record(journal, result, whole=tables is None)
    return result


def compare(context: Context, at: Moment, *, tables: Collection[TableName] | None, jobs: int) -> VerifyResult:
    """Compare the snapshots of a moment."""
    told = [time.monotonic()]

    def tell(progress: Progress) -> None:
        if time.monotonic() - told[0] >= EVERY_S:
            told[0] = time.monotonic()
            context.say(f"verify: {progress.done}/{progress.total} scans, {progress.table} on {progress.side}")

    return verify(
        context.shard_map,
        context.catalog,
        source=at.source,
        shards=at.shards,
        at_lsn=at.lsn,
        jobs=jobs,
        tables=tables,
        on_progress=tell,
        stop=context.stop,
    )


def chosen_tables(context: Context, tables: Collection[str]) -> frozenset[TableName] | None:
    """Return the tables that an operator has named, or None for all."""
    if not tables:
        return None
    names = frozenset(TableName.parse(table) for table in tables)
    unknown = names - context.shard_map.moved()
    if unknown:
        raise MappingError(
            f"{', '.join(map(str, sorted(unknown)))} is no table that the mapping moves",
            hint="name tables as the mapping does",
        )
    return names


def _record(journal: Journal, result: VerifyResult, *, whole: bool) -> None:
    evidence = {
        "verified_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verified_lsn": str(result.at_lsn),
        "verified_equal": result.equal,
        "differences": result.differences_total,
    }
    journal.event("verified", whole=whole, **evidence)
    phase = journal.get().phase
    if not whole and result.equal:
        return
    journal.add_evidence(evidence)
    place("verify.recorded")
    if result.equal and phase is Phase.TAILING:
        journal.advance(Phase.TAILING, Phase.VERIFIED)
    elif not result.equal and phase is Phase.VERIFIED:
        journal.advance(Phase.VERIFIED, Phase.TAILING)

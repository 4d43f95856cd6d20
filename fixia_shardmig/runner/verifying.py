"""Verifies at one LSN and records the outcome: what the cutover's gates look for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.passes import Pass, open_pass
from fixia_shardmig.model.errors import (
    HeldError,
    MappingError,
    RefusedError,
    ShardmigError,
    StoppedError,
    TemporaryError,
)
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import place
from fixia_shardmig.runner.barrier import Moment, moment, moment_of_the_way_back
from fixia_shardmig.runner.context import Context, refuse_other_plan
from fixia_shardmig.runner.live_pace import live_pace
from fixia_shardmig.runner.progress import Progress
from fixia_shardmig.runner.returning import has_way_back
from fixia_shardmig.runner.schemas import schema_differences
from fixia_shardmig.runner.tailing import tail_running
from fixia_shardmig.verify.result import TableResult, VerifyResult, joined
from fixia_shardmig.verify.scans import Pacing
from fixia_shardmig.verify.scans import Progress as Scan
from fixia_shardmig.verify.verification import verify

VERIFIABLE = frozenset({Phase.TAILING, Phase.VERIFIED, Phase.SWITCHED})
"""After the switch the source is held to what the shards have: by the tail of the way back."""

MOMENTS_MAX = 10_000
"""Moments of one pass. Each compares a table at least, and no database has so many."""

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to compare.

    Attributes:
        tables: Only these, by their names in the mapping; then the phase stays as it is.
        jobs: Scans at a time.
        rate_bytes_per_s: Over all of them; None without a limit.
        max_snapshot_age_s: After this time no table is begun under the same snapshots; the rest has another LSN.
        resume: Go on with a pass that was ended, leaving out what it found equal.
    """

    tables: Collection[str] = ()
    jobs: int = 2
    rate_bytes_per_s: int | None = None
    max_snapshot_age_s: float | None = None
    resume: bool = False


def verify_now(context: Context, options: VerifyOptions | None = None) -> VerifyResult:
    """Compare both sides, each table at one LSN, while writes go on, with another process's tail or one of our own.

    Raises:
        RefusedError: It is too early or too late for it.
        HeldError: Another operator's command works on the migration.
        TemporaryError: The barrier was not reached in time.
    """
    options = options or VerifyOptions()
    with operating(context) as journal:
        return verify_once(context, journal, options)


def verify_every(
    context: Context, options: VerifyOptions, every_s: float, on_result: Callable[[VerifyResult], object]
) -> VerifyResult | None:
    """Verify again and again until told to stop, and return what was found last.

    A round that could not be completed is said and followed by the next one; the tail runs on between the rounds.
    """
    last: VerifyResult | None = None
    with tail_running(context) as check_tail:
        while not context.stop.is_set():
            due = time.monotonic() + every_s
            try:
                last = verify_now(context, options)
                on_result(last)
            except (TemporaryError, HeldError) as error:
                context.say(f"this round could not be completed: {error.message}")
            except StoppedError:
                break
            while time.monotonic() < due and not context.stop.wait(min(LOOK_EVERY_S, every_s)):
                check_tail()
    return last


@contextmanager
def operating(context: Context) -> Iterator[Journal]:
    """Hold the migration for an operator's verify, in a phase in which the two sides are meant to be equal."""
    with context.journal() as journal, journal.holding("operator"):
        migration = journal.get()
        if migration.phase not in VERIFIABLE:
            raise RefusedError(
                f"in phase {migration.phase.value} the two sides are not meant to be equal", hint="shardmig status"
            )
        if migration.phase is Phase.SWITCHED and not has_way_back(migration):
            raise RefusedError(
                "the cutover was made without a way back: the source stands still", hint="shardmig status"
            )
        refuse_other_plan(context, migration, journal)
        yield journal


def verify_once(context: Context, journal: Journal, options: VerifyOptions) -> VerifyResult:
    """Compare in one pass, at as many moments as it takes, and record the outcome."""
    chosen = _chosen(context, options.tables)
    compared = context.shard_map.moved() if chosen is None else chosen
    what = {
        "tables": map(str, compared),
        "mapping": context.shard_map.fingerprint(),
        "catalog": context.catalog.fingerprint(compared),
    }
    kept = open_pass(journal, what, resume=options.resume)
    known = _by_table([TableResult.from_json(part) for results in kept.kept for part in results])
    if known:
        context.say(f"going on with a pass that has found {len(known)} of {len(compared)} tables equal")
    parts: list[VerifyResult] = []
    definitions = _Definitions(context, compared)
    definitions.start()
    while not parts or parts[-1].left:
        if len(parts) == MOMENTS_MAX:
            raise RefusedError(f"{MOMENTS_MAX} moments were not enough", hint="raise --max-snapshot-age")
        parts.append(_at_a_moment(context, journal, options, kept, chosen=chosen, known=known))
        known = _by_table(parts[-1].tables)
    result = replace(joined(parts), definitions=definitions.result())
    kept.forget()
    _record(journal, result, began_at=kept.began_at, whole=chosen is None)
    return result


class _Definitions(threading.Thread):
    """Compares the definitions of some tables while their rows are read. A run that is stopped does not wait for it."""

    def __init__(self, context: Context, tables: frozenset[TableName]) -> None:
        super().__init__(name="definitions", daemon=True)
        self._context = context
        self._tables = tables
        self._found: dict[str, tuple[str, ...]] = {}

    def run(self) -> None:
        """Note, by shard, what is not defined as planned; of what cannot be compared, why."""
        try:
            found = schema_differences(self._context)
        except (ShardmigError, psycopg.Error) as error:
            why = (f"could not be compared: {next(iter(str(error).splitlines()), '')}",)
            self._found = dict.fromkeys(self._context.shard_map.shard_names, why)
            return
        self._found = {
            shard: tuple(str(one) for one in differences if _root(self._context, one.table) in self._tables)
            for shard, differences in found.items()
        }

    def result(self) -> dict[str, tuple[str, ...]]:
        """Wait for the end and return what was found."""
        self.join()
        return self._found


def _root(context: Context, table: TableName) -> TableName:
    known = context.catalog.tables.get(table)
    return known.root if known else table


def _by_table(results: Iterable[TableResult]) -> dict[TableName, tuple[TableResult, ...]]:
    found: dict[TableName, tuple[TableResult, ...]] = {}
    for result in results:
        found[result.table] = (*found.get(result.table, ()), result)
    return found


def _at_a_moment(
    context: Context,
    journal: Journal,
    options: VerifyOptions,
    kept: Pass,
    *,
    chosen: frozenset[TableName] | None,
    known: Mapping[TableName, tuple[TableResult, ...]],
) -> VerifyResult:
    """Compare what is not known yet at one LSN, for as long as its snapshots may get old."""

    def keep(results: tuple[TableResult, ...]) -> None:
        if all(result.equal for result in results):
            kept.keep(results[0].table, [result.to_json() for result in results])
        else:
            kept.forget()

    find = moment_of_the_way_back if journal.get().phase is Phase.SWITCHED else moment
    with (
        tail_running(context) as check_tail,
        find(context, journal, check_tail) as at,
        live_pace(context, options.rate_bytes_per_s) as pace,
    ):
        context.say(f"comparing at {at.lsn}; the tail was held for {at.held_ms} ms")
        age_s = options.max_snapshot_age_s
        return compare(
            context,
            at,
            tables=chosen,
            jobs=options.jobs,
            kept=known,
            pacing=Pacing(options.rate_bytes_per_s, None if age_s is None else time.monotonic() + age_s, pace.verdict),
            on_compared=keep,
        )


def compare(
    context: Context,
    at: Moment,
    *,
    tables: Collection[TableName] | None,
    **options: Any,  # noqa: ANN401  as `verify` names them
) -> VerifyResult:
    """Compare the snapshots of a moment; the other options are those of `verify`."""
    told: list[Progress] = []

    def tell(scan: Scan) -> None:
        if not told:
            told.append(Progress(context.say, "verify", total_bytes=scan.total_bytes))
        told[0].tell(scan.rows, scan.size_bytes, f"{scan.done}/{scan.total} scans, {scan.table} on {scan.side}")

    return verify(
        context.shard_map,
        context.catalog,
        source=at.source,
        shards=at.shards,
        at_lsn=at.lsn,
        tables=tables,
        on_progress=tell,
        stop=context.stop,
        **options,
    )


def _chosen(context: Context, tables: Collection[str]) -> frozenset[TableName] | None:
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


def _record(journal: Journal, result: VerifyResult, *, began_at: datetime, whole: bool) -> None:
    """Record the outcome. A pass over several runs is as old as its beginning."""
    evidence = {
        "verified_at": began_at.astimezone(UTC).isoformat(timespec="seconds"),
        "verified_lsn": str(result.at_lsn),
        "verified_equal": result.equal,
        "differences": result.differences_total,
    }
    journal.event("verified", whole=whole, **evidence)
    phase = journal.get().phase
    if phase is Phase.SWITCHED:
        journal.add_evidence({f"back_{name}": value for name, value in evidence.items()})
        return
    if not whole and result.equal:
        return
    journal.add_evidence(evidence)
    place("verify.recorded")
    if result.equal and phase is Phase.TAILING:
        journal.advance(Phase.TAILING, Phase.VERIFIED)
    elif not result.equal and phase is Phase.VERIFIED:
        journal.advance(Phase.VERIFIED, Phase.TAILING)

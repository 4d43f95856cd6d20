"""The options of `verify`, what they ask for, and how its results are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

import rich_click as click

from fixia_shardmig.cli.params import Duration, Size
from fixia_shardmig.cli.session import Session
from fixia_shardmig.model.errors import Exit, MappingError

if TYPE_CHECKING:
    from fixia_shardmig.runner.repairing import RepairOutcome
    from fixia_shardmig.verify.result import VerifyResult

P = ParamSpec("P")

_OPTIONS = (
    click.option(
        "--table", "tables", multiple=True, metavar="TABLE", help="Only this table; may be given several times."
    ),
    click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Scans at a time."),
    click.option("--rate", type=Size(), metavar="SIZE/s", help="Bytes a second over all scans, like 50MB/s."),
    click.option(
        "--max-snapshot-age",
        type=Duration(),
        metavar="SECONDS",
        help="Begin no table after this time, but take new snapshots for the rest, so that vacuum is not held back.",
    ),
    click.option("--resume", is_flag=True, help="Leave out the tables that a verify which was ended had found equal."),
    click.option(
        "--every", type=Duration(), metavar="SECONDS", help="Verify again and again, so often, until stopped."
    ),
    click.option("--repair", is_flag=True, help="Put the named rows right, then compare again; no other tail may run."),
    click.option("--dry-run", is_flag=True, help="With --repair: say what it would do, and change nothing."),
)


def verify_options(function: Callable[P, None]) -> Callable[P, None]:
    """Give `verify` its options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def run_verify(  # noqa: PLR0913  one for each option of the command
    session: Session,
    *,
    tables: tuple[str, ...],
    jobs: int,
    rate: float | None,
    max_snapshot_age: float | None,
    resume: bool,
    every: float | None,
    repair: bool,
    dry_run: bool,
) -> int:
    """Compare, once or again and again, or compare and repair; returns the exit code."""
    from fixia_shardmig.runner.repairing import repair_now
    from fixia_shardmig.runner.throttling import refuse_tiny_rate
    from fixia_shardmig.runner.verifying import VerifyOptions, verify_every, verify_now

    if dry_run and not repair:
        raise MappingError("--dry-run says what --repair would do", hint="shardmig verify --repair --dry-run")
    if repair and every is not None:
        raise MappingError("--every only looks: who repairs wants to see why", hint="shardmig verify --repair")
    refuse_tiny_rate(None if rate is None else int(rate))
    options = VerifyOptions(tables, jobs, int(rate) if rate else None, max_snapshot_age, resume)
    context = session.load()
    if every is not None:
        last = verify_every(context, options, every, lambda result: _tell(session, result))
        return int(Exit.DIFFERENCES if last and not last.equal else session.stopped_code or Exit.OK)
    if repair:
        outcome = repair_now(context, options, dry_run=dry_run)
        return _tell(session, outcome.last, outcome)
    return _tell(session, verify_now(context, options))


def _tell(session: Session, result: VerifyResult, repair: RepairOutcome | None = None) -> int:
    """Print a comparison, with what was repaired, and return its exit code."""
    from fixia_shardmig.verify.render import render_text

    session.result(
        (repair or result).to_json(),
        repair.text if repair else lambda: render_text(result),
        status="ok" if result.equal else "differences",
        next_steps=("shardmig cutover --dry-run",) if result.equal else ("shardmig verify --repair --dry-run",),
    )
    return int(Exit.OK if result.equal else Exit.DIFFERENCES)

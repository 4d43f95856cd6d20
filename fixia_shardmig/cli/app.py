"""All commands. Each turns its options into one library call and shows what comes back.

Imports of the other rooms stay inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import rich_click as click

from fixia_shardmig import __version__
from fixia_shardmig.cli.params import Duration, ExecutorAddress, Size, Until
from fixia_shardmig.cli.session import Session
from fixia_shardmig.cli.verifying import run_verify, verify_options
from fixia_shardmig.cli.wrapping import command, reading
from fixia_shardmig.model.errors import Exit, ShardmigError

P = ParamSpec("P")

if TYPE_CHECKING:
    from fixia_shardmig.cutover.result import CutoverResult
    from fixia_shardmig.model.throttle import Control, Limits


@click.group(context_settings={"auto_envvar_prefix": "SHARDMIG", "help_option_names": ["-h", "--help"]})
@click.option("-m", "--mapping", metavar="FILE", envvar="SHARDMIG_MAPPING", help="The mapping file.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "jsonl"]),
    default="text",
    show_default=True,
    help="How results are printed on stdout; progress always goes to stderr.",
)
@click.option("-v", "--verbose", count=True, help="Show log events too; twice for more.")
@click.option("--log-file", metavar="FILE", help="Append log events as JSON lines.")
@click.option("--yes", is_flag=True, help="Answer yes to questions.")
@click.version_option(__version__, prog_name="shardmig")
@click.pass_context
def cli(ctx: click.Context, *, mapping: str | None, output: str, verbose: int, log_file: str | None, yes: bool) -> None:
    """Split one PostgreSQL database into several by kind of user, while it serves writes.

    The usual way: init, plan, copy, tail, verify, cutover. Each command says what comes next.
    """
    from fixia_shardmig.cli.logs import configure

    try:
        configure(log_file, verbose)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise click.BadParameter(f"{log_file}: {reason}", param_hint="--log-file") from None
    ctx.obj = Session(mapping, output, verbose, yes)


@cli.command()
@click.option("--from-url", metavar="URL", required=True, help="The database to read; a variable's name is safer.")
@click.option("--name", default="split", show_default=True, help="The migration's name.")
@click.option("--shard", "shards", multiple=True, metavar="NAME", help="A shard's name; once for each.")
@reading
def init(session: Session, from_url: str, name: str, shards: tuple[str, ...]) -> None:
    """Print a commented mapping, with rules suggested from the foreign keys."""
    from fixia_shardmig.runner.planning import propose_mapping

    session.migration = name
    text = propose_mapping(from_url, name=name, shards=shards)
    session.result({"mapping": text}, text)


@cli.command()
@click.option("--out", metavar="FILE", help="Write the plan as JSON into a file too.")
@click.option("--estimates", is_flag=True, help="Use the planner's statistics instead of counting rows.")
@reading
def plan(session: Session, out: str | None, *, estimates: bool) -> int:
    """Say what would happen and why it may not. Changes nothing."""
    from fixia_shardmig.runner.planning import make, render, write_plan

    context = session.load()
    made = make(context, estimates=estimates)
    if out:
        write_plan(made, out)
    blocked = made.has_blockers
    session.result(
        made.to_json(),
        lambda: render(made),
        status="refused" if blocked else "ok",
        next_steps=made.next_steps,
    )
    return int(Exit.REFUSED if blocked else Exit.OK)


@cli.group()
def schema() -> None:
    """Make the shards' tables, or say what differs."""


@schema.command("apply")
@command
def schema_apply(session: Session) -> None:
    """Make the tables on every shard; the copy does this by itself where it was not done."""
    from fixia_shardmig.runner.schemas import apply_schemas

    made = apply_schemas(session.load())
    session.result({"shards": made}, "the tables are on every shard", next_steps=("shardmig copy --resume",))


@schema.command("diff")
@reading
def schema_diff(session: Session) -> int:
    """Name what differs between the shards' definitions and the source's."""
    from fixia_shardmig.runner.schemas import diff_schemas

    differences = diff_schemas(session.load())
    lines = [f"{shard}: {line}" for shard, found in differences.items() for line in found]
    session.result(
        {"differences": differences},
        "\n".join(lines) or "nothing differs",
        status="differences" if lines else "ok",
    )
    return int(Exit.DIFFERENCES if lines else Exit.OK)


def spool_options(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command that copies the options of a spool."""
    directory = click.option(
        "--spool",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Keep the slot's stream in files here while the copy lasts, so that the slot moves on.",
    )
    bound = click.option(
        "--spool-bytes", type=Size(), default="50GiB", show_default=True, help="How much the spool may hold."
    )
    return directory(bound(function))


def throttle_options(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command that works for long the options that hold it back."""
    rate = click.option("--rate", type=Size(), metavar="SIZE/s", help="Bytes a second over all workers, like 50MB/s.")
    load = click.option(
        "--max-load",
        type=click.IntRange(0),
        metavar="N",
        help="Wait while more client sessions than this are active on the source, ours not counted.",
    )
    replicas = click.option(
        "--max-replica-lag",
        type=Duration(),
        metavar="SECONDS",
        help="Wait while a standby replays later than this, and while that cannot be read.",
    )
    return rate(load(replicas(function)))


def _limits(*, rate: float | None, max_load: int | None, **standbys: float | None) -> Limits:
    from fixia_shardmig.model.throttle import Limits
    from fixia_shardmig.runner.throttling import refuse_tiny_rate

    limits = Limits(
        rate_bytes_per_s=None if rate is None else int(rate),
        sessions_max=max_load,
        replica_lag_s_max=standbys["max_replica_lag"],
    )
    refuse_tiny_rate(limits.rate_bytes_per_s)
    return limits


@cli.command()
@click.option("--resume", is_flag=True, help="Go on with a copy that was begun.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option("--chunk-bytes", type=Size(), default="256MiB", show_default=True, help="Size of a chunk of a table.")
@click.option(
    "--chunk-time",
    type=Duration(),
    default="60s",
    show_default=True,
    help="Cut a chunk smaller when its turn comes, where it would take longer.",
)
@click.option(
    "--max-snapshot-age",
    type=Duration(),
    default="2h",
    show_default=True,
    help="Take a new snapshot after this time, so that vacuum on the source is not held back.",
)
@click.option(
    "--executor",
    type=ExecutorAddress(),
    default="local",
    show_default=True,
    help="Who copies: --jobs processes of this host, or the workers of a Dask scheduler.",
)
@spool_options
@throttle_options
@command
def copy(  # noqa: PLR0913  one for each option of the command
    session: Session,
    /,
    *,
    resume: bool,
    jobs: int,
    chunk_bytes: float,
    chunk_time: float,
    max_snapshot_age: float,
    executor: str | None,
    spool: Path | None,
    spool_bytes: float,
    **throttle: Any,  # noqa: ANN401  as `throttle_options` names them
) -> None:
    """Copy every table to the rows' home shards, and build primary keys."""
    from fixia_shardmig.runner.copying import CopyOptions
    from fixia_shardmig.runner.copying import copy as run_copy
    from fixia_shardmig.runner.progress import mib
    from fixia_shardmig.runner.spooling import SpoolOptions

    kept = SpoolOptions(spool, int(spool_bytes)) if spool else None
    limits = _limits(**throttle)
    options = CopyOptions(resume, jobs, int(chunk_bytes), max_snapshot_age, kept, limits, executor, chunk_time)
    result = run_copy(session.load(), options)
    text = (
        f"copied {result.rows:,} rows, {mib(result.bytes)} in {result.chunks} chunks"
        f" under {result.epochs} snapshot{'s' if result.epochs > 1 else ''} in {result.seconds:.1f} s"
    )
    session.result(result.to_json(), text, next_steps=(f"shardmig tail --spool {spool}" if spool else "shardmig tail",))


@cli.command()
@click.option("--until", type=Until(), help="End when caught up with everything built, or at an LSN; else follow.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Indexes at once on a shard.")
@click.option(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Apply what the copy has kept here, then go on with the stream.",
)
@throttle_options
@command
def tail(
    session: Session,
    /,
    until: Any,  # noqa: ANN401  an LSN or the word caught-up
    jobs: int,
    *,
    spool: Path | None,
    **throttle: Any,  # noqa: ANN401  as `throttle_options` names them
) -> int:
    """Apply the source's changes, build indexes and constraints, then follow."""
    from fixia_shardmig.runner.tailing import tail as run_tail

    limits = _limits(**throttle)
    context = session.load()
    goal = None if until == "caught-up" else until
    result = run_tail(context, until=goal, caught_up=until == "caught-up", jobs=jobs, spool=spool, limits=limits)
    text = (
        f"applied {result.changes:,} changes in {result.transactions:,} transactions up to {result.applied_lsn};"
        f" {result.moved_rows:,} rows moved with their owners"
    )
    stopped = session.stopped_code
    status = stopped.name.lower() if stopped else "ok"
    steps = ("shardmig status",) if result.switched else ("shardmig tail", "shardmig verify")
    session.result(result.to_json(), text, status=status, next_steps=steps)
    return int(stopped or Exit.OK)


@cli.command()
@verify_options
@command
def verify(session: Session, /, **options: Any) -> int:  # noqa: ANN401  as `verify_options` names them
    """Compare both sides at one LSN while writes go on, and name each difference."""
    return run_verify(session, **options)


@cli.command()
@click.option("--until", type=click.Choice(["tail", "verify"]), default="verify", show_default=True)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Parallel work.")
@spool_options
@throttle_options
@command
def run(
    session: Session,
    /,
    until: str,
    jobs: int,
    *,
    spool: Path | None,
    spool_bytes: float,
    **throttle: Any,  # noqa: ANN401  as `throttle_options` names them
) -> int:
    """Run the phases in one go, from wherever the migration stands, say how it went, then follow the source."""
    from fixia_shardmig.runner.spooling import SpoolOptions
    from fixia_shardmig.runner.story import Outcome, run_all

    def tell(outcome: Outcome) -> None:
        session.result(
            outcome.to_json(),
            outcome.text(),
            status="ok" if outcome.equal else "differences",
            next_steps=("shardmig cutover --dry-run",) if outcome.equal else ("shardmig events",),
        )

    kept = SpoolOptions(spool, int(spool_bytes)) if spool else None
    limits = _limits(**throttle)
    outcome = run_all(session.load(), until=until, jobs=jobs, on_outcome=tell, spool=kept, limits=limits)
    return int((session.stopped_code or Exit.OK) if outcome.equal else Exit.DIFFERENCES)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Try every gate and rehearse the drain; change nothing.")
@click.option("--max-pause", type=Duration(), default="5s", show_default=True, help="Undo what takes longer.")
@click.option("--resume", is_flag=True, help="Finish, or undo, a cutover that was interrupted.")
@click.option("--way-back/--no-way-back", default=True, help="Prepare for a rollback.  [default: way-back]")
@command
def cutover(session: Session, *, dry_run: bool, max_pause: float, resume: bool, way_back: bool) -> int:
    """Fence the source, drain, check, and hand the writes to the shards."""
    from fixia_shardmig.runner.switching import cut_over

    context = session.load()
    if not dry_run:
        session.confirm(f"hand the writes of {context.shard_map.name} over to the shards?")
    result = cut_over(context, dry_run=dry_run, max_pause_s=max_pause, resume=resume, way_back=way_back)
    return _show_switch(session, result, dry_run=dry_run)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Try every gate and rehearse the drain; change nothing.")
@click.option("--max-pause", type=Duration(), default="5s", show_default=True, help="Undo what takes longer.")
@click.option("--resume", is_flag=True, help="Finish, or undo, a rollback that was interrupted.")
@command
def rollback(session: Session, *, dry_run: bool, max_pause: float, resume: bool) -> int:
    """Hand the writes back to the source, with everything that was written since the cutover."""
    from fixia_shardmig.runner.switching import roll_back

    context = session.load()
    if not dry_run:
        session.confirm(f"hand the writes of {context.shard_map.name} back to the source?")
    result = roll_back(context, dry_run=dry_run, max_pause_s=max_pause, resume=resume)
    return _show_switch(session, result, dry_run=dry_run, back=True)


def _show_switch(session: Session, result: CutoverResult, *, dry_run: bool, back: bool = False) -> int:
    """Show how a cutover or a rollback ended; returns the exit code."""
    from fixia_shardmig.runner.switching import render

    name = "rollback" if back else "cutover"
    open_gates = all(gate.ok for gate in result.gates)
    code = Exit.OK if (open_gates if dry_run else result.switched) else Exit.REFUSED
    steps: tuple[str, ...] = (f"shardmig {name}",) if dry_run and open_gates else ()
    if result.switched and result.unfinished:
        code, steps = Exit.FAILED, (f"shardmig {name} --resume",)
    elif result.switched:
        steps = ("shardmig finalize",) if back else ("shardmig tail", "shardmig status")
    session.result(
        result.to_json(),
        lambda: render(result, dry_run=dry_run, back=back),
        status=code.name.lower(),
        next_steps=steps,
    )
    return int(code)


@cli.command()
@click.option("--keep-references", is_flag=True, help="Leave the subscriptions of the reference tables.")
@click.option("--keep-journal", is_flag=True, help="Leave the journal, which the library asks where to write.")
@click.option("--despite-clients", is_flag=True, help="Take the fence off the source although others are connected.")
@command
def finalize(session: Session, *, keep_references: bool, keep_journal: bool, despite_clients: bool) -> None:
    """End the rollback window: nothing of ours stays on the source or the shards."""
    from fixia_shardmig.runner.ending import finalize as run_finalize

    context = session.load()
    session.confirm(f"end migration {context.shard_map.name} for good, with its way back?")
    result = run_finalize(
        context, keep_references=keep_references, keep_journal=keep_journal, despite_clients=despite_clients
    )
    session.result({"removed": list(result.removed)}, "finalized: the migration is over")


@cli.command()
@click.option("--drop-targets", is_flag=True, help="Drop the copied tables on the shards too.")
@click.option("--drop-spool", is_flag=True, help="Delete the spool too.")
@command
def abort(session: Session, *, drop_targets: bool, drop_spool: bool) -> None:
    """Give up before the switch: nothing of ours stays on the source or the shards."""
    from fixia_shardmig.runner.ending import abort as run_abort

    context = session.load()
    what = "drop slot, publication and journal" + (" and the shards' tables" if drop_targets else "")
    session.confirm(f"{what} of migration {context.shard_map.name}?")
    result = run_abort(context, drop_targets=drop_targets, drop_spool=drop_spool)
    session.result({"removed": list(result.removed)}, "aborted: the source is as it was", next_steps=("shardmig plan",))


@cli.command()
@reading
def pause(session: Session) -> None:
    """Have the running copy or tail wait; it goes on answering the source and loses nothing."""
    _change_control(session, "paused", lambda control: replace(control, paused=True))


@cli.command()
@reading
def resume(session: Session) -> None:
    """Let what `pause` holds go on."""
    _change_control(session, "resumed", lambda control: replace(control, paused=False))


@cli.command()
@click.option("--rate", type=Size(), metavar="SIZE/s", help="Bytes a second over all workers; 0 for no limit.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Chunks at a time, up to the --jobs that copy began with.")
@click.option("--clear", is_flag=True, help="Go back to the running command's own options.")
@reading
def throttle(session: Session, *, rate: float | None, jobs: int | None, clear: bool) -> None:
    """Change rate and jobs of the running copy or tail, or show what is asked of it."""
    from fixia_shardmig.runner.throttling import asked, refuse_tiny_rate, with_options

    if rate is None and jobs is None and not clear:
        _show_control(session, *asked(session.mapping_file()))
        return
    bytes_per_s = None if rate is None else int(rate)
    refuse_tiny_rate(bytes_per_s)
    changed = functools.partial(with_options, clear=clear, rate_bytes_per_s=bytes_per_s, jobs=jobs)
    _change_control(session, "throttled", changed)


def _change_control(session: Session, event: str, changed: Callable[[Control], Control]) -> None:
    from fixia_shardmig.runner.throttling import change

    _show_control(session, *change(session.mapping_file(), event, changed))


def _show_control(session: Session, migration: str, control: Control, driver: str | None) -> None:
    from fixia_shardmig.runner.progress import mib

    session.migration = migration
    rate = control.rate_bytes_per_s
    shown_rate = "as the command says" if rate is None else f"{mib(rate)}/s" if rate else "no limit"
    jobs = "as the command says" if control.jobs is None else str(control.jobs)
    paused = "paused; " if control.paused else ""
    follows = "followed within a second" if driver else "nobody works now; the next run follows it"
    session.result(
        {"paused": control.paused, "rate_bytes_per_s": rate, "jobs": control.jobs, "driver": driver},
        f"{paused}rate {shown_rate}, jobs {jobs}: {follows}",
        next_steps=("shardmig resume",) if control.paused else ("shardmig status",),
    )


@cli.command()
@click.option("--watch", is_flag=True, help="Show it again and again.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is a problem.")
@command
def status(session: Session, *, watch: bool, exit_code: bool) -> int:
    """Show phase, progress, rates, lag, retained WAL and the next step."""
    from fixia_shardmig.cli.status_text import render_status
    from fixia_shardmig.runner.status import status as read_status

    context = session.load()
    while True:
        found = read_status(context)
        session.result(found.to_json(), functools.partial(render_status, found), next_steps=found.next_steps)
        if not watch or session.stop.wait(WATCH_S):
            return int(Exit.FAILED if exit_code and found.problems else Exit.OK)


WATCH_S = 2.0


@cli.command()
@click.option("--limit", default=200, show_default=True, help="The newest so many.")
@reading
def events(session: Session, limit: int) -> None:
    """Show who did what, when."""
    context = session.load()
    with context.journal() as journal:
        journal.get()
        found = journal.events(limit)
    lines = [f"{e.at:%Y-%m-%d %H:%M:%S} {e.actor} {e.event} {_details(e.detail)}".rstrip() for e in found]
    part = [{"at": e.at.isoformat(), "actor": e.actor, "event": e.event, "detail": e.detail} for e in found]
    session.result({"events": part}, "\n".join(lines))


def _details(detail: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in detail.items())


@cli.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the page into a file, at once.")
@reading
def runbook(session: Session, out: Path | None) -> None:
    """Print the page for the day: checks, commands, gates as they are now, ways out, and what to do at 3 a.m."""
    from fixia_shardmig.runner.runbook import make_runbook, write_runbook

    made = make_runbook(session.load())
    if out is not None:
        write_runbook(made, out)
    session.result(made.to_json() | {"out": str(out) if out else None}, made.text if out is None else str(out))


@cli.command()
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@click.option(
    "--writer",
    type=click.Choice(["source", "shards"]),
    help="Who has the writes, where no journal says it: before a migration, or when the journal was dropped.",
)
@command
def lookup(session: Session, table: str, key: tuple[str, ...], writer: str | None) -> None:
    """Show a row and its home shard; a key of several columns is given as several words.

    Before the switch the row is read from the source, and the home is the one it will have.
    """
    from fixia_shardmig.lookup import CrossShard, ShardRouter, Writer

    with ShardRouter.from_mapping(session.mapping_file(), writer=Writer(writer) if writer else None) as router:
        session.migration = router.migration
        found = CrossShard(router).locate(table, key)
    session.result(found.to_json(), found.text())


@cli.command()
@click.option("--users", default=10_000, show_default=True, type=click.IntRange(50), help="Users of the marketplace.")
@click.option("--seconds", type=Duration(), help="Let the writers write at least this long before the cutover.")
@click.option("--keep", is_flag=True, help="Leave the servers running, and say where they are.")
@command
def demo(session: Session, *, users: int, seconds: float | None, keep: bool) -> int:
    """Split a marketplace under live writes on embedded PostgreSQL, and judge the outcome."""
    from fixia_shardmig.demo.story import tell

    session.migration = "fixia"
    outcome = tell(users=users, seconds=seconds, keep=keep, say=session.say, stop=session.stop)
    session.result(outcome.to_json(), outcome.text(), status="ok" if outcome.good else "failed")
    return int(Exit.OK if outcome.good else Exit.FAILED)


@cli.group()
def export() -> None:
    """Write files for other programs."""


@export.command("mapping-schema")
@reading
def export_mapping_schema(session: Session) -> None:
    """Print the JSON Schema of mapping files, for editors."""
    import json

    from fixia_shardmig.mapping.schema import mapping_schema

    text = json.dumps(mapping_schema(), indent=2)
    session.result({"mapping_schema": mapping_schema()}, text)


@export.command("pgbouncer")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the files into this directory.")
@reading
def export_pgbouncer(session: Session, out: Path | None) -> None:
    """Write pgbouncer.ini, and the databases file that a cutover rewrites, with every alias on the one database."""
    from fixia_shardmig.cli.exporting import export_poolers

    export_poolers(session, out)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@reading
def completion(session: Session, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise ShardmigError(f"no completion for {shell}", hint="bash, zsh or fish")
    source = found(cli, {}, "shardmig", "_SHARDMIG_COMPLETE").source()
    session.result({"script": source}, source)

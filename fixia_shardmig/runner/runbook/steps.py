"""The commands in order with what they print, the two pauses step by step, the pooler's part, and the ways out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fixia_shardmig.cutover.clients import PAUSE_SHARE
from fixia_shardmig.cutover.cutover import FENCE_SHARE
from fixia_shardmig.cutover.fence import SQLSTATE_MOVED, SQLSTATE_PAUSED
from fixia_shardmig.cutover.fence_locks import LOCK_TIMEOUT_S
from fixia_shardmig.cutover.result import EXPIRY_MARGIN_S, MAX_PAUSE_S
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import describe
from fixia_shardmig.runner.runbook.figures import CUTOVER, ROLLBACK, Figures
from fixia_shardmig.runner.runbook.look import AFTER_THE_SWITCH, BEFORE_THE_SWITCH, Look
from fixia_shardmig.runner.runbook.markdown import cell, code, psql, table
from fixia_shardmig.runner.spooling import with_spool

SCHEMA_DONE: Final = "done"
COPYING: Final = frozenset({None, Phase.PLANNED, Phase.COPYING})
COMPARED: Final = frozenset({Phase.VERIFIED, Phase.FENCED})
OVER: Final = frozenset({Phase.ROLLED_BACK, Phase.FINALIZED, Phase.ABORTED})
"""Phases in which nothing is left to be prepared."""

Command = tuple[str, str, str, bool]
"""A command line, what it prints, how long it takes, and whether it is done."""


def commands(look: Look, figures: Figures) -> Iterator[str]:
    """Yield every command from the plan to the end, which of them are done, and which comes next."""
    yield from [
        "## The commands, in order",
        "",
        (
            "`shardmig tail` goes on until it is ended: give it a terminal, or a service, of its own. `cutover`,"
            " `rollback`,"
            " `finalize` and `abort` ask before they begin; `--yes` before the command answers."
        ),
        "",
    ]
    listed = [*_forward(look, figures), *_backward(look, figures)]
    following = next((number for number, one in enumerate(listed) if not one[3]), None)
    if look.phase in {Phase.FINALIZED, Phase.ABORTED} or "journal" in look.missing:
        following = None
    rows = [
        (number + 1, "done" if done else "**next**" if number == following else "", f"`{line}`", prints, takes)
        for number, (line, prints, takes, done) in enumerate(listed)
    ]
    yield from table(("", "", "command", "expect", "takes"), rows)


def _forward(look: Look, figures: Figures) -> Iterator[Command]:
    migration, phase = look.migration, look.phase
    switched = phase in AFTER_THE_SWITCH or phase in {Phase.ROLLED_BACK, Phase.FINALIZED}
    copied = phase not in COPYING
    tail = with_spool("shardmig tail", migration) if migration else "shardmig tail"
    copy = with_spool("shardmig copy --resume", migration) if migration and not copied else "shardmig copy"
    built = migration is not None and migration.schema_stage == SCHEMA_DONE
    rehearsed = figures.rehearsal(CUTOVER)[1] and phase in COMPARED
    yield "shardmig plan", "`nothing stands in the way`, exit code 0", "seconds to minutes", migration is not None
    yield copy, "`copied … rows, … in … chunks under 1 snapshot in … s`", figures.copy(), copied
    caught_up = "`caught up; following the source`; it goes on"
    yield tail, caught_up, figures.catch_up(), switched or (copied and built)
    compared = switched or phase in COMPARED
    yield "shardmig verify", "`…: equal`, exit code 0; 3 for differences", figures.verify(), compared
    dry = "`every gate is open; a pause of about … ms is to be expected`"
    yield "shardmig cutover --dry-run", dry, figures.gates(CUTOVER), switched or rehearsed
    said = "`switched: the shards have the writes; the fence stood for … ms`"
    yield f"shardmig --yes cutover --max-pause {MAX_PAUSE_S:g}s", said, figures.pause(CUTOVER), switched


def _backward(look: Look, figures: Figures) -> Iterator[Command]:
    rolled_back = look.phase is Phase.ROLLED_BACK
    runs = look.phase is Phase.SWITCHED and "driver" in look.holders
    bringing = "`the shards have the writes; bringing them back into the source`; it goes on until the end"
    yield "shardmig tail", bringing, "until rollback or finalize", rolled_back or runs
    possible = "`rollback    possible: yes`"
    yield "shardmig status", possible, "seconds", rolled_back
    dry = "only if you go back: `every gate is open; …`"
    yield "shardmig rollback --dry-run", dry, figures.gates(ROLLBACK), rolled_back
    said = "only if you go back: `switched: the source has the writes; the fence stood for … ms`"
    yield f"shardmig --yes rollback --max-pause {MAX_PAUSE_S:g}s", said, figures.pause(ROLLBACK), rolled_back
    end = "after it nothing leads back: `finalized: the migration is over`"
    yield "shardmig --yes finalize", end, "seconds", look.phase is Phase.FINALIZED


# the pauses


def pauses(look: Look, figures: Figures) -> Iterator[str]:
    """Yield what clients see at each step of the cutover and of the rollback."""
    yield from [
        "## The pause, step by step",
        "",
        f"Expected at the cutover: {figures.pause(CUTOVER)}. At a rollback: {figures.pause(ROLLBACK)}.",
        "",
        (
            "Reads are never refused. A client that retries SQLSTATE "
            f"`{SQLSTATE_PAUSED}` for some seconds comes through both pauses; `{SQLSTATE_MOVED}` says that it has an"
            " old URL."
        ),
        "",
        "### Cutover",
        "",
    ]
    head = ("step", "clients see", "takes", "when it fails")
    yield from table(head, _steps(look, figures, CUTOVER, _cutover_steps(look)))
    yield from ["### Rollback", ""]
    yield from table(head, _steps(look, figures, ROLLBACK, _rollback_steps(look)))


Step = tuple[str, str, str]


def _steps(look: Look, figures: Figures, story: str, steps: Iterator[Step]) -> Iterator[tuple[str, ...]]:
    skipped = set[str]() if look.context.shard_map.pgbouncers else {"pause", "repoint", "probe"}
    if not look.context.shard_map.on_switch:
        skipped.add("hook")
    for step, seen, failing in steps:
        if step not in skipped:
            yield step, seen, figures.step(story, step), failing


def _cutover_steps(look: Look) -> Iterator[Step]:
    waits = "clients of the pooler wait; others get" if look.context.shard_map.pgbouncers else "writers get"
    refused = f"{waits} `{SQLSTATE_PAUSED}`: paused, try again in a moment"
    lifted = "undone by itself: the fence is lifted"
    resume = "`shardmig cutover --resume`"
    yield "gates", "nothing", "refused; nothing was touched"
    yield "prepare", "nothing, or for a moment: the fence's triggers, which refuse nothing yet", lifted
    yield "pause", "clients of the pooler wait between two transactions", "undone by itself: all go on at the source"
    yield (
        "fence",
        f"writers wait up to {LOCK_TIMEOUT_S * 1000:.0f} ms a try for those in flight; then {refused}",
        lifted,
    )
    yield "drain", "the same", lifted
    yield "check", "the same: rows are counted", lifted
    yield "sequences", "the same", lifted
    yield "way_back", "the same: where the way back begins is written down", lifted
    yield "seal", "the same; the fence does not expire any more", lifted
    yield "switch", "**the point of no return**: the shards are the writer", f"{resume} decides"
    yield "enable", f"on the source writers get `{SQLSTATE_MOVED}`: moved, use the shard's URL", resume
    yield "references", "the same: reference tables are guarded on all shards but their home", resume
    yield "repoint", "clients of the pooler go on, on the shards", resume
    yield "probe", "nothing: a query through every alias", resume
    yield "hook", "your commands re-point the application", resume
    yield "subscriptions", "nothing: reference tables follow their home", resume
    yield "slot", "nothing: the source keeps no WAL for us any more", resume


def _rollback_steps(look: Look) -> Iterator[Step]:
    waits = "clients of the pooler wait; others get" if look.context.shard_map.pgbouncers else "writers get"
    refused = f"{waits} `{SQLSTATE_PAUSED}` on the shards"
    lifted = "undone by itself: the shards take writes again"
    resume = "`shardmig rollback --resume`"
    yield "gates", "nothing", "refused; nothing was touched"
    yield "prepare", "nothing, or for a moment: the fences' triggers, which refuse nothing yet", lifted
    yield "pause", "clients of the pooler wait between two transactions", "undone by itself: all go on at the shards"
    yield "fence", refused, lifted
    yield "drain", "the same, until no row is contested", lifted
    yield "check", "the same: rows are counted", lifted
    yield "sequences", "the same", lifted
    yield "seal", "the same; the shards' fences do not expire any more", lifted
    yield "switch", "**the point of no return**: the source is the writer", f"{resume} decides"
    yield "open", f"the source takes writes; on the shards writers get `{SQLSTATE_MOVED}`", resume
    yield "repoint", "clients of the pooler go on, on the source", resume
    yield "probe", "nothing: a query through every alias", resume
    yield "hook", "your commands re-point the application", resume
    yield "way_back", "nothing: slots and subscriptions of the way back go", resume


# PgBouncer


def poolers(look: Look) -> Iterator[str]:
    """Yield the pooler's part, if the mapping has one."""
    shard_map = look.context.shard_map
    if not shard_map.pgbouncers:
        return
    yield from ["## PgBouncer's part", ""]
    rows = [
        (
            describe(section.admin_url),
            ", ".join(f"{alias} ({shard})" for shard, alias in section.aliases.items()),
            section.databases_file or "a hook re-points it",
        )
        for section in shard_map.pgbouncers
    ]
    yield from table(("console", "aliases", "the file that a cutover replaces"), rows)
    yield from [
        (
            "A cutover pauses all of them before the fence, and behind the switch writes the file, sends RELOAD,"
            " holds SHOW"
            " DATABASES against it, and sends RECONNECT and RESUME. A PAUSE does not expire: if the program is killed,"
            " a process of"
            " its own resumes the clients; if that is gone too, `shardmig cutover --resume` does (`shardmig rollback"
            " --resume`"
            " on the way back)."
        ),
        "",
        (
            "To see who waits, and to let them go on by hand, **where nothing has been switched**: behind a switch"
            " they would go"
            " on at a side that refuses them."
        ),
        "",
    ]
    for section in shard_map.pgbouncers:
        lines = ["SHOW DATABASES;  -- paused, and where each alias leads", "SHOW POOLS;      -- cl_waiting"]
        lines += [f'RESUME "{alias}";' for alias in section.aliases.values()]
        yield from code("sh", psql(section.admin_url, "pgbouncer"))
        yield from code("sql", "\n".join(lines))


# the ways out


def ways_out(look: Look, figures: Figures) -> Iterator[str]:
    """Yield abort, rollback and finalize: which of them is there now, and their limits."""
    yield from ["## The ways out", ""]
    yield from table(("", "now", "what it does, and its limits"), _ways(look))
    share = f"{PAUSE_SHARE * 100:.0f} % of it for PAUSE, the fence has to be up by {FENCE_SHARE * 100:.0f} %"
    yield from [
        (
            f"**`--max-pause`** ({MAX_PAUSE_S:g} s unless said otherwise) bounds what is undone: {share}, and what"
            " has not"
            " switched by its end is taken back without a question. The fence itself expires"
            f" {EXPIRY_MARGIN_S:g} s later by the server's clock, should nobody be left to lift it. Choose it above the"
            f" expected pause ({figures.pause(CUTOVER)}) and below what your clients' timeouts bear."
        ),
        "",
        (
            "**Undone by itself**: everything before the switch, by failure, Ctrl-C or deadline. **Finished by"
            " `--resume`**, as"
            " often as you like: everything behind it. After a kill nobody has to know which: `shardmig cutover"
            " --resume`, or"
            " `shardmig rollback --resume`, decides by the journal and the fence."
        ),
        "",
    ]


def _ways(look: Look) -> Iterator[tuple[str, str, str]]:
    phase = look.phase
    begun = phase in BEFORE_THE_SWITCH
    yield (
        "`shardmig abort`",
        "possible" if begun else "nothing to give up" if phase is None else "refuses",
        (
            "before the switch: drops slot, publication, fence and journal; what was copied stays, or goes with"
            " `--drop-targets`. The source was only read"
        ),
    )
    yield (
        "`shardmig rollback`",
        _rollback_now(look),
        (
            "after the switch: hands the writes back with all that was written since. Until `finalize`, and only while"
            " `shardmig tail` brings the shards' writes back. References across shards are not checked on the way:"
            " one may"
            " dangle on the source. Definitions changed on a shard have to be changed on the source first"
        ),
    )
    yield (
        "`shardmig finalize`",
        "possible" if phase in {Phase.SWITCHED, Phase.ROLLED_BACK} else "over" if phase is Phase.FINALIZED else "later",
        (
            "ends the rollback window for good: triggers, slots, publications, journal go. It refuses while clients are"
            " connected to the old side, which would take their writes again"
        ),
    )


def _rollback_now(look: Look) -> str:
    way_back = look.status.way_back if look.status else None
    if way_back is not None and look.phase in AFTER_THE_SWITCH:
        return "possible" if way_back.possible else f"not possible: {cell(way_back.why_not)}"
    if look.phase is Phase.ROLLED_BACK:
        return "done"
    return "over" if look.phase is Phase.FINALIZED else "not needed: the source has the writes"

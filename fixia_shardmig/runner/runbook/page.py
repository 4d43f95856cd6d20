"""Composes the page: where the migration stands, what has to be done before, the gates, who is in the way, the rest.

Decides nothing about the migration. Sections that speak of the way forward, of the way back and of trouble stand beside
it in files of their own.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fixia_shardmig import __version__
from fixia_shardmig.cutover.fence import FenceKind
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase, writer_in
from fixia_shardmig.plan.findings import quoted
from fixia_shardmig.postgres.sessions import describe
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.runbook.figures import CUTOVER, ROLLBACK, Figures, history
from fixia_shardmig.runner.runbook.look import SOURCE, Look, look_around
from fixia_shardmig.runner.runbook.markdown import code, coordinates, table
from fixia_shardmig.runner.runbook.steps import OVER, commands, pauses, poolers, ways_out
from fixia_shardmig.runner.runbook.trouble import at_night, by_hand

MODE = 0o644
ROLES = (
    "decides to go, and to go back",
    "runs the commands",
    "watches the application",
    "watches the servers",
    "tells users",
)


@dataclass(frozen=True, slots=True)
class Runbook:
    """The page, and the phase that it was made in; None before a migration was begun, or where that is not known."""

    text: str
    phase: Phase | None

    def to_json(self) -> dict[str, str | None]:
        """Return the `runbook` command's result."""
        return {"runbook": self.text, "phase": self.phase.value if self.phase else None}


def make_runbook(context: Context) -> Runbook:
    """Return the runbook of a migration as it stands; changes nothing on any server."""
    look = look_around(context)
    figures = Figures(look.events, look.plan.estimate if look.plan else None)
    sections = (
        _stands(look),
        _before(look, figures),
        commands(look, figures),
        _gates(look),
        _in_the_way(look),
        pauses(look, figures),
        poolers(look),
        ways_out(look, figures),
        by_hand(look),
        at_night(look),
    )
    lines = [line for section in sections for line in section]
    return Runbook("\n".join(lines).rstrip() + "\n", look.phase)


def write_runbook(runbook: Runbook, out: Path) -> None:
    """Put the page in the place of a file at once: who reads it meanwhile has the old one or the new one, whole.

    Raises:
        RefusedError: The directory is not there, or not ours to write in.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise _unwritable(out, error) from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(runbook.text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(MODE)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(out, error) from None


def _unwritable(out: Path, error: OSError) -> RefusedError:
    reason = (error.strerror or type(error).__name__).lower()
    return RefusedError(f"cannot write {out}: {reason}", hint="name a file in a directory that this user may write in")


# where it stands


def _stands(look: Look) -> Iterator[str]:
    shard_map = look.context.shard_map
    yield from [
        f"# Runbook of migration {shard_map.name}",
        "",
        (
            f"Made {look.at:%Y-%m-%d %H:%M:%S} UTC by `shardmig runbook` (version {__version__}) from the mapping,"
            " the journal"
            " and the servers as they were then. Gates and lists of who is in the way are of that moment: make the"
            " page anew"
            " before the day, and again on the day. All commands are given in the mapping's folder, with"
        ),
        "",
        *code("sh", f"export SHARDMIG_MAPPING={Path(shard_map.file).name if shard_map.file else 'shardmig.yaml'}"),
        "## Where it stands",
        "",
        f"**{_phase(look)}**",
        "",
    ]
    ends = [(SOURCE, describe(shard_map.source.url), _fence(look, SOURCE))]
    for name, endpoint in shard_map.shards.items():
        journal = ", keeps the journal" if name == shard_map.journal_shard else ""
        ends.append((f"shard {name}{journal}", describe(endpoint.url), _fence(look, name)))
    yield from table(("database", "where", "its fence"), ends)
    yield from [f"- not known: {what}: {why}" for what, why in look.missing.items()]
    yield from [f"- problem: {problem}" for problem in (look.status.problems if look.status else ())]
    yield from [f"- at work: {what}: {who}" for what, who in look.holders.items()]
    yield from [f"- {line}" for line in history(look.events)]
    yield ""


def _phase(look: Look) -> str:
    if look.phase is not None:
        return f"Phase {look.phase.value}; {writer_in(look.phase).value} may write."
    if "journal" in look.missing:
        return "The journal cannot be read, so who may write is not known. Change nothing by hand before it can be."
    return "Not begun: the source may write, and nothing is on the shards."


def _fence(look: Look, place: str) -> str:
    fence = look.fences.get(place)
    if fence is None:
        return "not known"
    until = f" until {fence.expires_at:%H:%M:%S} UTC" if fence.kind is FenceKind.RAISED and fence.expires_at else ""
    return f"{fence.kind.value}{until}" + (", with gaps" if fence.gaps and fence.refuses else "")


# before


def _before(look: Look, figures: Figures) -> Iterator[str]:
    if look.phase in OVER:
        return
    yield from [
        "## Before the day",
        "",
        *_done_before(look, figures),
        "- [ ] **The application uses one URL for each shard**, which lead to the source until the cutover:",
        *(f"  - {shard}: setting ____________, read by ____________" for shard in look.context.shard_map.shards),
        "- [ ] **Load test**: the shards under the load of a usual day, each with its share, behind the same pooler.",
        "  - slowest query on the source ________ ms, on the shards ________ ms; connections at most ________",
        "- [ ] **Signs on which you would not begin, and on which you would go back**: ____________",
        "- [ ] **A backup that was restored once**, not only taken:",
        "",
        *code("sh", _backup(look)),
    ]
    yield from table(("who", "name", "how to reach them"), [(role, "", "") for role in ROLES])


def _done_before(look: Look, figures: Figures) -> Iterator[str]:
    """Yield what the journal and the gates can tick off by themselves."""
    story = ROLLBACK if look.is_back else CUTOVER
    rehearsed, is_open = figures.rehearsal(story)
    if look.is_back:
        way_back = look.status.way_back if look.status else None
        found = "not known" if way_back is None else "yes" if way_back.possible else f"no: {way_back.why_not}"
        yield _item("A rollback is possible", "shardmig status", found, done=found == "yes")
    else:
        compared = next((gate for gate in look.gates if gate.name == "verified"), None)
        begun = look.migration is not None
        yield _item("Plan without a blocker", "shardmig plan", _findings(look), done=begun)
        detail = compared.detail if compared else "not yet"
        yield _item("Verified lately", "shardmig verify", detail, done=compared is not None and compared.ok)
    yield _item("Rehearsed at the hour that you mean", f"shardmig {story} --dry-run", rehearsed, done=is_open)


def _item(what: str, command: str, found: str, *, done: bool) -> str:
    return f"- [{'x' if done else ' '}] **{what}**: `{command}` ({found})"


def _findings(look: Look) -> str:
    if look.plan is None:
        return "begun; it would speak of what is over" if look.migration else "not known"
    found = [finding.severity.value for finding in look.plan.findings]
    return f"now {found.count('blocker')} blockers, {found.count('warning')} warnings"


def _backup(look: Look) -> str:
    """Return the commands that take a copy of what is written to now and show that it can be restored."""
    shard_map = look.context.shard_map
    urls = {SOURCE: shard_map.source.url}
    if look.is_back and look.phase is not Phase.ROLLED_BACK:
        urls = {name: endpoint.url for name, endpoint in shard_map.shards.items()}
    lines = ["# or your own tool's restore; what counts is the last line of each"]
    for name, url in urls.items():
        counted = shlex.quote(f"SELECT count(*) FROM {_largest(look, name)}")
        lines += [
            f"pg_dump --format=directory --jobs=2 --file=backup-{name} {coordinates(url)}",
            f"createdb restored_{name} && pg_restore --exit-on-error --jobs=2 --dbname=restored_{name} backup-{name}",
            f"psql restored_{name} -c {counted}   # the largest table: as many as you expect?",
        ]
    return "\n".join(lines)


def _largest(look: Look, place: str) -> str:
    """Return the largest table that has rows there, as SQL."""
    shard_map, sizes = look.context.shard_map, Counter[TableName]()
    for found in look.context.catalog.tables.values():
        if found.root in shard_map.moved() and (place == SOURCE or place in shard_map.shards_of(found.root)):
            sizes[found.root] += found.size_bytes
    return quoted(max(sizes, key=lambda name: sizes[name]))


# gates and those in the way


def _gates(look: Look) -> Iterator[str]:
    of = "rollback" if look.is_back else "cutover"
    yield from [f"## The gates of the {of}, as they are now", ""]
    if not look.gates:
        why = look.missing.get("gates") or look.missing.get("journal") or "there is none to ask in this phase"
        yield from [f"None could be asked: {why}.", ""]
        return
    closed = sum(not gate.ok for gate in look.gates)
    yield f"{closed} closed." if closed else "All that were asked are open."
    more = (
        ", and `pooler_reach`, which writes lines into its databases file" if look.context.shard_map.pgbouncers else ""
    )
    yield from [
        (
            f"Not asked here, since they change something for a moment: `drain`, which writes a marker{more}."
            f" `shardmig {of} --dry-run` asks them too."
        ),
        "",
    ]
    rows = [(gate.name, "open" if gate.ok else "**CLOSED**", gate.detail, gate.hint) for gate in look.gates]
    yield from table(("gate", "", "found", "what opens it"), rows)


def _in_the_way(look: Look) -> Iterator[str]:
    yield from [
        "## Who is in the way of whom",
        "",
        (
            "A fence waits for those who hold a table's lock, at most for its tries; a prepared transaction never"
            " ends by"
            " itself. To end a session: `SELECT pg_terminate_backend(PID)` on that server."
        ),
        "",
    ]
    rows = [
        (place, what, who)
        for place, waits in look.waits.items()
        for what, listed in (
            ("waits", waits.waiting),
            ("holds a lock that a fence waits for", waits.holders),
            ("prepared transaction", waits.prepared),
            ("long transaction", waits.long),
        )
        for who in listed
    ]
    yield from table(("where", "what", "who"), rows)
    if quiet := [place for place, waits in look.waits.items() if not waits]:
        yield from [f"Nobody on {', '.join(quiet)}.", ""]

"""When shardmig cannot help, and at 3 a.m.: SQL that lifts a fence by hand, and one command for each symptom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fixia_shardmig.cutover.by_hand import asks_fence, asks_phase, drops_fence, opens_fence
from fixia_shardmig.cutover.fence import SQLSTATE_MOVED, SQLSTATE_PAUSED, FenceKind
from fixia_shardmig.cutover.way_back import SQLSTATE_ELSEWHERE
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.runner.runbook.look import AFTER_THE_SWITCH, SOURCE, Look
from fixia_shardmig.runner.runbook.markdown import code, psql, table

SWITCHED: Final = AFTER_THE_SWITCH | {Phase.FINALIZED}


def by_hand(look: Look) -> Iterator[str]:
    """Yield the SQL that opens a fence without shardmig, and when it must not be used."""
    shard_map = look.context.shard_map
    journal = shard_map.shards[shard_map.journal_shard]
    yield from [
        "## A fence by hand",
        "",
        "Only when the program itself cannot run. A fence that is `raised` opens by itself at its expiry.",
        "",
        f"1. Ask the journal who may write: `{psql(journal.url)}`",
        "",
        *code("sql", asks_phase()),
        "2. Look at the fence, on the database that refuses writes:",
        "",
        *code("sh", "\n".join(psql(url) for url in _urls(look).values())),
        *code("sql", asks_fence()),
        f"3. {_warning(look)}",
        "",
        "   | phase | the source's fence | the shards' fences |",
        "   |---|---|---|",
        "   | tailing, verified, or before | may be opened | there is none |",
        "   | fenced | raised: may be opened. Sealed: **not**: `shardmig cutover --resume` | there is none |",
        "   | switched, finalized | **must stay**: what is written there is lost | may be opened |",
        "   | rolling_back | **must stay** | raised: may be opened. Sealed: **not**: `shardmig rollback --resume` |",
        "   | rolled_back | may be opened | **must stay** until `shardmig finalize` |",
        "   | the journal cannot be read | sealed: **not** | sealed: **not** |",
        "",
        (
            "4. Open it. Writers come through at once, nothing waits. It refuses a sealed fence. `although_sealed`"
            " may become"
            " `true` only where the table says *may be opened*, and no command of ours runs."
        ),
        "",
        *code("sql", opens_fence(shard_map.name)),
        "5. When there is time, take its triggers away. It waits for those who read these tables; again is harmless.",
        "",
        *code("sql", drops_fence()),
    ]


def _urls(look: Look) -> dict[str, str]:
    shard_map = look.context.shard_map
    return {SOURCE: shard_map.source.url} | {name: endpoint.url for name, endpoint in shard_map.shards.items()}


def _warning(look: Look) -> str:
    sealed = [place for place, fence in look.fences.items() if fence.kind is FenceKind.SEALED]
    if look.phase in SWITCHED:
        return (
            "**Now: do not open the fence of the source.** The shards have the writes; what is written to the source"
            " would be lost, and no rollback would be exact any more."
        )
    if look.phase is Phase.ROLLED_BACK:
        return (
            "**Now: do not open the fences of the shards.** The source has the writes; what is written there is lost."
        )
    if sealed:
        return f"**Now: do not open what is sealed ({', '.join(sealed)})** before `--resume` has decided who may write."
    return "Now no fence is sealed. Look again when you need this: the table says what holds then."


# 3 a.m.


def at_night(look: Look) -> Iterator[str]:
    """Yield a page for somebody who was woken up: what they see, the one command, what they should see then."""
    yield from [
        "## 3 a.m.",
        "",
        "Every command here may be given again, and none makes it worse. What it prints behind `hint:` comes next.",
        "",
    ]
    head = ("you see", "one command", "you should see")
    yield from table(head, [(seen, f"`{line}`", then) for seen, line, then in _symptoms(look)])
    yield from [
        "If the command itself says `is working on migration`, somebody else is at it: `shardmig status` names them.",
        "",
    ]


Symptom = tuple[str, str, str]


def _symptoms(look: Look) -> Iterator[Symptom]:
    yield "you do not know where it stands", "shardmig status", "`phase` and who may write; `problem` lines; `next:`"
    yield from _of_writers(look)
    yield from _of_servers()
    yield from _of_data()
    yield (
        "you have to know who did what",
        "shardmig events --limit 50",
        "the newest line is the last thing that happened",
    )


def _of_writers(look: Look) -> Iterator[Symptom]:
    yield (
        f"writers get `{SQLSTATE_PAUSED}` from the source for longer than a few seconds",
        "shardmig cutover --resume",
        "`undone, the source takes writes again`, or `switched: the shards have the writes`",
    )
    yield (
        f"writers get `{SQLSTATE_PAUSED}` from a shard for longer than a few seconds",
        "shardmig rollback --resume",
        "`undone, the shards take writes again`, or `switched: the source has the writes`",
    )
    yield (
        f"writers get `{SQLSTATE_MOVED}`",
        "shardmig status",
        "who may write: these clients have the other side's URL. Give them the right one; leave the fence alone",
    )
    yield (
        f"writers get `{SQLSTATE_ELSEWHERE}`",
        "shardmig status",
        f"nothing is broken: a reference table is written on shard {look.context.shard_map.reference_home} only",
    )
    if look.context.shard_map.pgbouncers:
        yield (
            "clients hang at PgBouncer and nobody cuts over",
            "shardmig cutover --resume",
            "`SHOW POOLS` on the console has `cl_waiting` 0; else RESUME by hand, see above",
        )
    yield (
        "the terminal of a cutover is gone, or its process was killed",
        "shardmig cutover --resume",
        "one of the two lines above; `no cutover is under way` means that it was undone before you came",
    )
    yield (
        "the terminal of a rollback is gone, or its process was killed",
        "shardmig rollback --resume",
        "as above, for the other direction",
    )
    yield (
        "it says `switched, but not finished`",
        "shardmig cutover --resume",
        "`unfinished` is gone. The shards have the writes; only what follows is missing",
    )


def _of_servers() -> Iterator[Symptom]:
    yield (
        "WAL fills the source's disk, or a shard's after the switch",
        "shardmig tail",
        (
            "`lag` falls. If it cannot run and nothing is switched: `shardmig abort`; after the switch"
            " `shardmig finalize`, and the way back is gone"
        ),
    )
    yield (
        "the tail has stopped",
        "shardmig tail",
        "it says why it stopped, and what to do; it goes on where it was, and nothing is lost meanwhile",
    )
    yield (
        "a server is down",
        "shardmig status",
        (
            "`does not answer`, and which. Start it, then `shardmig tail`. A shard that is down after the switch is"
            " an outage"
            " of that shard: nothing here mends it"
        ),
    )
    yield (
        "a cutover is refused",
        "shardmig cutover --dry-run",
        "`CLOSED` before each gate that is, with its hint below",
    )


def _of_data() -> Iterator[Symptom]:
    yield (
        "rows look wrong on a shard before the switch",
        "shardmig verify",
        "exit code 0: they are right. 3: each is named; do not cut over",
    )
    yield (
        "after the switch the application is broken, and cannot be mended in time",
        "shardmig rollback --dry-run",
        "`every gate is open`; then `shardmig --yes rollback`. What was written since comes with it",
    )

"""The plan as plain text: tables, findings with their hints, references across shards, cost, next command."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from fixia_shardmig.plan.findings import Finding, Severity, size_text
from fixia_shardmig.plan.plan import Plan, TablePlan

_HEADINGS = {
    Severity.BLOCKER: "Blockers: remove these first",
    Severity.WARNING: "Warnings: decide on these",
    Severity.INFO: "Good to know",
}


def render_text(plan: Plan) -> str:
    """Return the plan for people; lines may be longer than a terminal, the terminal wraps them."""
    parts = [_tables(plan), *_findings(plan), *_references(plan), _needs(plan), _verdict(plan)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _tables(plan: Plan) -> list[str]:
    approximately = "" if plan.exact else " (estimated)"
    head = ["table", "rule", "size", f"rows{approximately}", *plan.shard_names]
    body = [_row(plan, table) for table in plan.tables]
    sums = {shard: sum(t.homes[shard].rows for t in plan.tables if shard in t.homes) for shard in plan.shard_names}
    rows_total = sum(table.rows or 0 for table in plan.tables)
    size_total = sum(table.size_bytes for table in plan.tables)
    foot = ["all", "", size_text(size_total), f"{rows_total:,}", *(f"{count:,}" for count in sums.values())]
    return list(_aligned([head, *body, foot], left=2))


def _row(plan: Plan, table: TablePlan) -> list[str]:
    rows = "?" if table.rows is None else f"{table.rows:,}"
    shares = [f"{table.homes[shard].rows:,}" if shard in table.homes else "-" for shard in plan.shard_names]
    return [str(table.table), table.rule, size_text(table.size_bytes), rows, *shares]


def _aligned(lines: list[list[str]], *, left: int) -> Iterator[str]:
    """Yield lines of cells in columns, the first `left` ones flush left, numbers flush right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _findings(plan: Plan) -> Iterator[list[str]]:
    for severity, heading in _HEADINGS.items():
        found = plan.of(severity)
        if found:
            yield [f"{heading} ({len(found)})", *(line for group in _by_hint(found) for line in _group(group))]


def _group(findings: list[Finding]) -> Iterator[str]:
    yield from map(_finding, findings)
    if findings[0].hint:
        yield f"      hint: {findings[0].hint}"


def _by_hint(findings: tuple[Finding, ...]) -> Iterator[list[Finding]]:
    """Yield neighbours that say the same about several tables together, so that their hint stands there once."""
    for _, group in groupby(findings, key=lambda finding: (finding.code, finding.hint)):
        yield list(group)


def _finding(finding: Finding) -> str:
    about = f"{finding.table}: " if finding.table else ""
    return f"  [{finding.code}] {about}{finding.message}"


def _references(plan: Plan) -> Iterator[list[str]]:
    if plan.cross_shard_references:
        lines = [["  reference", "on delete", "rows", "since"]]
        for one in plan.cross_shard_references:
            rows = "?" if one.rows is None else f"{one.rows:,}"
            name = f"  {one.table}({', '.join(one.columns)}) -> {one.references}"
            lines.append([name, one.on_delete or "-", rows, one.reason])
        text = [
            "  ".join((line[0].ljust(width), line[1].ljust(11), line[2].rjust(9), line[3]))
            for width in [max(len(line[0]) for line in lines)]
            for line in lines
        ]
        heading = f"References that end at the split ({len(plan.cross_shard_references)}), with the rows that cross it"
        yield [heading, *text]
    if plan.kept:
        yield [f"Foreign keys kept on the shards: {len(plan.kept)}"]


def _needs(plan: Plan) -> list[str]:
    room = ", ".join(f"{shard} {size_text(size)}" for shard, size in plan.needed_bytes.items())
    cost = plan.estimate
    return [
        f"Room on the shards, with indexes: {room}; as much again for WAL while copying",
        f"Time to expect: copy {_duration(cost.copy_s)}, verify {_duration(cost.verify_s)}, pause {cost.pause_s} s",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004  two minutes are still read as seconds
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004  two hours


def _verdict(plan: Plan) -> list[str]:
    blockers = len(plan.of(Severity.BLOCKER))
    verdict = f"{blockers} blockers: the migration may not begin" if blockers else "nothing stands in the way"
    return [verdict, f"next: {plan.next_steps[0]}"]

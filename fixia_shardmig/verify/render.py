"""Shows a comparison as text: a line for each table and shard, the differences as a diff, and what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fixia_shardmig.verify.comparison import NAMED_MAX, Difference, key_text
from fixia_shardmig.verify.repair import RepairAction
from fixia_shardmig.verify.result import ReferenceResult, VerifyResult

SHOWN_MAX = 50
"""Differences written out; more are in the JSON, and nobody reads more from a screen."""

_SIGNS = {"missing": "-", "extra": "+", "differing": "~", "misplaced": ">", "duplicated": "*"}


def render_text(result: VerifyResult) -> str:
    """Return the whole report, lines without a final newline."""
    lines = [*_tables(result), *_differences(result), *_references(result), *_readiness(result), "", _sentence(result)]
    return "\n".join(lines)


def render_actions(actions: Sequence[RepairAction], *, dry_run: bool) -> str:
    """Return what a repair did or would do, lines without a final newline."""
    count = sum(action.copies for action in actions)
    if not actions:
        return "repair: nothing to do"
    head = f"repair would do {_counted(count, 'thing')}:" if dry_run else f"repaired; {_counted(count, 'thing')} done:"
    more = [f"… and {len(actions) - SHOWN_MAX:,} more rows"] if len(actions) > SHOWN_MAX else []
    return "\n".join([head, *(f"  {action_text(action)}" for action in actions[:SHOWN_MAX]), *more])


def action_text(action: RepairAction) -> str:
    """Return one line: `insert on clients  services  id=4`."""
    times = f"  {action.copies:,} times" if action.copies > 1 else ""
    return f"{action.act} on {action.shard}  {action.table}  {key_text(action.key)}{times}"


def _sentence(result: VerifyResult) -> str:
    tables = len({entry.table for entry in result.tables})
    shards = len({entry.shard for entry in result.tables})
    rows = sum(entry.target_rows for entry in result.tables)
    found = "equal" if result.equal else f"not equal: {_counted(result.differences_total, 'difference')}"
    dangling = sum(not reference.equal for reference in result.references)
    if dangling:
        found += f", {_counted(dangling, 'reference')} with another number of dangling rows"
    first, last = result.lsn_range
    moments = f"LSN {first}" if first == last else f"LSNs from {first} to {last}"
    return (
        f"compared every column of {rows:,} rows in {_counted(tables, 'table')} on {_counted(shards, 'shard')} with "
        f"the source at {moments} by {result.hash_form} in {result.seconds:.1f} s: {found}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _tables(result: VerifyResult) -> Iterator[str]:
    rows = [("table", "shard", "source rows", "target rows", "", "seconds")]
    rows += [
        (
            str(entry.table),
            entry.shard,
            f"{entry.source_rows:,}",
            f"{entry.target_rows:,}",
            "equal" if entry.equal else "DIFFERS",
            f"{entry.seconds:.1f}",
        )
        for entry in result.tables
    ]
    yield from _aligned(rows, right=(2, 3, 5))


def _aligned(rows: Sequence[tuple[str, ...]], *, right: tuple[int, ...]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _differences(result: VerifyResult) -> Iterator[str]:
    if not result.differences_total:
        return
    yield ""
    yield "- missing   + extra   ~ differing   > on another shard than its home   * there more than once"
    for difference in result.differences[:SHOWN_MAX]:
        yield _difference(difference)
    more = result.differences_total - min(len(result.differences), SHOWN_MAX)
    if more > 0:
        yield f"… and {more:,} more; shardmig -o json verify names up to {NAMED_MAX:,} a table"


def _difference(difference: Difference) -> str:
    parts = [f"{_SIGNS[difference.kind]} {difference.shard}  {difference.table}  {key_text(difference.key)}"]
    if difference.copies > 1:
        parts.append(f"{difference.copies:,} times")
    if difference.columns:
        parts.append(f"columns: {', '.join(difference.columns)}")
    if difference.home and difference.home != difference.shard:
        parts.append(f"home: {difference.home}")
    return "  ".join(parts)


def _references(result: VerifyResult) -> Iterator[str]:
    shown = [entry for entry in result.references if entry.source_dangling or entry.shards_dangling]
    if shown:
        yield ""
        yield "references to rows that are nowhere:"
        yield from map(_reference, shown)


def _reference(entry: ReferenceResult) -> str:
    where = f"{entry.table} ({', '.join(entry.columns)}) -> {entry.references}"
    verdict = "equal" if entry.equal else "DIFFERS"
    return f"  {where}: {entry.source_dangling:,} on the source, {entry.shards_dangling:,} on the shards, {verdict}"


def _readiness(result: VerifyResult) -> Iterator[str]:
    """Say what the cutover still has to bring; none of it makes the rows unequal."""
    behind = sum(not entry.ready for entry in result.sequences)
    indexes = sum(len(entry.missing_indexes) for entry in result.objects)
    keys = sum(len(entry.missing_foreign_keys) for entry in result.objects)
    if behind or indexes or keys:
        yield ""
    if behind:
        yield f"before the cutover: {_counted(behind, 'sequence')} on the shards not yet past the column's values"
    if indexes or keys:
        yield f"not on the shards: {_counted(indexes, 'definition')} of indexes, {_counted(keys, 'foreign key')}"
    lines = [f"{shard}: {line}" for shard, found in result.definitions.items() for line in found]
    if lines:
        yield ""
        yield "defined otherwise than planned (shardmig schema diff):"
        yield from (f"  {line}" for line in lines[:SHOWN_MAX])
    if len(lines) > SHOWN_MAX:
        yield f"  … and {len(lines) - SHOWN_MAX:,} more"

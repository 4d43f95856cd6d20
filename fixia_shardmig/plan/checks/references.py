"""What the split does to references: cascades that end, moves that would be slow, values without a home."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.mapping.shard_map import Follows, SplitByColumn, SplitByReference
from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan.findings import Finding, Look, Severity, ident, listed, quoted, rows

_CASCADES = frozenset("cnd")
"""ON DELETE letters that write to the referencing rows: cascade, set null, set default."""


def dropped_cascades(look: Look) -> Iterator[Finding]:
    """Find foreign keys that end at the split, and with them what the server did by itself (pitfall 70)."""
    dropped = [fate for fate in look.fates if not fate.kept and fate.key.table in look.catalog.tables]
    dropped = [f for f in dropped if look.shard_map.shards_of(look.catalog.tables[f.key.table].root)]
    cascading = sorted({str(fate.key.references) for fate in dropped if fate.key.on_delete in _CASCADES})
    if dropped:
        yield Finding(
            "references-end",
            Severity.WARNING,
            f"{len(dropped)} of {len(look.fates)} foreign keys cannot be kept on the shards (see the list below); "
            f"a delete no longer cascades across shards from {listed(cascading) or 'any table'}",
            "after the cutover the application does these deletes; `shardmig verify` counts the references that dangle",
        )


def followed_without_index(look: Look) -> Iterator[Finding]:
    """Find followed columns without an index: a move would read the whole table for the rows that follow."""
    prefixes: dict[int, list[list[str]]] = {}
    for index in rows(look.source, "index_columns"):
        prefixes.setdefault(index.table_oid, []).append(list(index.columns or ()))
    for name, rule in sorted(look.shard_map.tables.items()):
        table = look.catalog.tables.get(name)
        if table is None or not isinstance(rule, Follows):
            continue
        for path in rule.paths:
            wanted = set(path.columns)
            if not any(set(columns[: len(wanted)]) == wanted for columns in prefixes.get(table.oid, [])):
                how = "" if table.kind == "p" else "CONCURRENTLY "
                columns = ", ".join(ident(column) for column in path.columns)
                yield Finding(
                    "follow-without-index",
                    Severity.WARNING,
                    f"no index begins with {columns}: when a row of {path.references} changes its home, "
                    "the rows that follow it are looked for in the whole table",
                    f"CREATE INDEX {how}ON {quoted(name)} ({columns})",
                    name,
                )


def enum_without_home(look: Look) -> Iterator[Finding]:
    """Find labels of an enum that have no home yet (pitfall 9)."""
    for name, rule in sorted(look.shard_map.tables.items()):
        table = look.catalog.tables.get(name)
        column = table.column(rule.column) if table and isinstance(rule, SplitByColumn) else None
        if column is None or not isinstance(rule, SplitByColumn) or rule.otherwise:
            continue
        missing = [label for label in column.enum_labels if label not in rule.homes]
        if missing:
            yield Finding(
                "value-without-home",
                Severity.WARNING,
                f"{rule.column} can be {listed(missing)}, which has no home: the first such row stops the tail",
                f"in the mapping, {name}: homes: {{…, {missing[0]}: {look.shard_map.shard_names[0]}}}, or otherwise:",
                name,
            )


def value_that_decides_many(look: Look) -> Iterator[Finding]:
    """Find small tables whose one row decides the home of many (pitfall 11)."""
    for name, rule in sorted(look.shard_map.tables.items()):
        if isinstance(rule, SplitByReference):
            yield Finding(
                "value-decides-many",
                Severity.INFO,
                f"a changed {rule.references}.{rule.value} moves all rows of {name} that point to it, and what follows",
                f"change no {rule.value} of {rule.references} before the cutover",
                name,
            )


def split_by_own_text(look: Look) -> Iterator[Finding]:
    """Find split values whose type has a cast to text: the snapshot would read that, the stream the type's output."""
    own = {(TableName(one.schema, one.table_name), one.column_name) for one in rows(look.source, "casts_to_text")}
    for table, rule in sorted(look.shard_map.tables.items()):
        match rule:
            case SplitByColumn():
                deciding = (table, rule.column)
            case SplitByReference():
                deciding = (rule.references, rule.value)
            case _:
                continue
        if deciding in own:
            yield Finding(
                "split-by-own-text",
                Severity.BLOCKER,
                f"the type of {deciding[1]} has a cast to text of its own, so that one value would read in two ways",
                "split_by: {sql: …} over a function that gives the value's text, or drop the cast for the migration",
                table,
            )

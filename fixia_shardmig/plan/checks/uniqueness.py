"""Which uniqueness ends at the split: each shard checks its own rows, nobody checks all of them (pitfall 69)."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.mapping.shard_map import Follows, Rule, SplitByColumn, SplitByReference, SplitBySql
from fixia_shardmig.model.catalog import Index, Table
from fixia_shardmig.placement.references import possible_homes
from fixia_shardmig.plan.findings import Finding, Look, Severity, listed


def ends_at_the_split(look: Look) -> Iterator[Finding]:
    """Find unique indexes over tables on several shards, whose columns do not decide the shard.

    Primary keys are one finding for all: uuids do not collide, and sequences are kept apart at the cutover.
    """
    keys: list[str] = []
    for name, rule in sorted(look.shard_map.tables.items()):
        table = look.catalog.tables.get(name)
        spread = table is not None and isinstance(rule, Follows | SplitByColumn | SplitByReference | SplitBySql)
        if table is None or not spread or len(possible_homes(look.shard_map, name)) == 1:
            continue
        for index in table.indexes:
            if not index.unique or _implies_home(index, rule, table) or _holds_primary_key(index, table):
                continue
            if index.primary:
                keys.append(f"{name}({', '.join(index.columns)})")
            else:
                yield _finding(table, index)
    if keys:
        yield Finding(
            "keys-per-shard",
            Severity.INFO,
            f"{len(keys)} primary keys are checked by each shard for itself: {listed(keys)}",
            "no action where ids are uuids or come from a sequence: these are kept apart",
        )


def _finding(table: Table, index: Index) -> Finding:
    columns = ", ".join(index.columns) or index.definition.partition(" USING ")[2]
    return Finding(
        "uniqueness-ends",
        Severity.WARNING,
        f"{index.name} ({columns}): after the split each shard checks only its own rows",
        "claim the value on the shared shard before writing it (lookup offers claims), or accept it",
        table.name,
    )


def _implies_home(index: Index, rule: Rule, table: Table) -> bool:
    """Whether rows with equal values in the index's columns always share a home."""
    columns = set(index.columns)
    match rule:
        case SplitByColumn() | SplitByReference():
            return rule.column in columns
        case SplitBySql():
            return bool(columns) and bool(rule.columns) and set(rule.columns) <= columns
        case Follows(paths):
            # A row whose path has a NULL is equal to no other row in this index, so only the first path counts.
            nulls_differ = not index.nulls_not_distinct or all(
                (column := table.column(name)) and column.not_null for name in paths[0].columns
            )
            return set(paths[0].columns) <= columns and nulls_differ
        case _:
            return True


def _holds_primary_key(index: Index, table: Table) -> bool:
    """Whether the index says less than the primary key does."""
    return not index.primary and bool(table.primary_key) and set(table.primary_key) <= set(index.columns)

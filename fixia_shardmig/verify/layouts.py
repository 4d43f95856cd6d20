"""Decides what of each table is compared, from the catalogs of all sides. No I/O.

Columns go by name (pitfall 52). A generated column is compared where every side stores it, since that checks its
expression for nothing; a virtual one has no value of its own, and one that a shard keeps as a plain column was never
copied. Refuses a table or column that a shard has not: what cannot be compared is not equal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.errors import DriftError, MappingError, RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.canonical import HashForm, field_of
from fixia_shardmig.verify.queries import Layout, buckets_for


def chosen_tables(shard_map: ShardMap, tables: Collection[TableName] | None) -> frozenset[TableName]:
    """Return the tables to compare: all that are moved, or those asked for."""
    moved = shard_map.moved()
    if tables is None:
        return moved
    strange = sorted(str(table) for table in set(tables) - moved)
    if strange:
        raise MappingError(f"not moved by the mapping: {', '.join(strange)}", hint="correct --table, or the mapping")
    return frozenset(tables)


def check_definitions(planned: Catalog, actual: Catalog, tables: frozenset[TableName]) -> None:
    """Refuse to compare by a picture of the source that is out of date: a new column would go unseen."""
    gone = sorted(str(table) for table in tables if table not in actual.tables)
    if gone:
        raise DriftError(f"not on the source any more: {', '.join(gone)}", hint="shardmig plan")
    changed = sorted(
        str(table)
        for table in tables
        if planned.fingerprint(frozenset({table})) != actual.fingerprint(frozenset({table}))
    )
    if changed:
        raise DriftError(f"changed on the source since the plan: {', '.join(changed)}", hint="shardmig plan")


def layout_of(
    name: TableName, shard_map: ShardMap, source: Catalog, shards: Mapping[str, Catalog], form: HashForm
) -> Layout:
    """Return how one table is compared.

    Raises:
        RefusedError: The table, or one of its columns, is not on a shard where its rows may live.
    """
    table = source.tables[name]
    for shard in shard_map.shards_of(name):
        if name not in shards[shard].tables:
            raise RefusedError(f"{name} is not on {shard}", hint="shardmig schema apply")
    counterparts = {shard: catalog.tables[name] for shard, catalog in shards.items() if name in catalog.tables}
    columns = {column.name: column for column in table.columns if _is_compared(column, counterparts)}
    key = table.primary_key or table.identity_columns
    order = [*key, *sorted(columns.keys() - set(key))]
    fields = tuple(
        field_of(
            columns[n],
            nullable=_is_nullable(columns[n], counterparts),
            one_type=_is_of_one_type(columns[n], counterparts),
        )
        for n in order
    )
    return Layout(name, fields[: len(key)], fields, buckets_for(table, source.leaves(name)), form)


def _is_compared(column: Column, counterparts: Mapping[str, Table]) -> bool:
    there = {shard: table.column(column.name) for shard, table in counterparts.items()}
    if column.generated:
        return column.generated == "s" and all(other and other.generated == "s" for other in there.values())
    for shard, other in there.items():
        if other is None or other.generated:
            raise RefusedError(
                f"{counterparts[shard].name}.{column.name} is not on {shard}, or is generated there",
                hint="shardmig schema diff",
            )
    return True


def _is_nullable(column: Column, counterparts: Mapping[str, Table]) -> bool:
    there = [table.column(column.name) for table in counterparts.values()]
    return not column.not_null or any(other is None or not other.not_null for other in there)


def _is_of_one_type(column: Column, counterparts: Mapping[str, Table]) -> bool:
    """Whether every side gives a column the same type: the hashes of 1 as int4 and as int8 differ."""
    there = [table.column(column.name) for table in counterparts.values()]
    return all(
        other and (other.base_type, other.type_builtin) == (column.base_type, column.type_builtin) for other in there
    )

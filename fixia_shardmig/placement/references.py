"""Decides which foreign keys stay whole when the tables are split, and says why each of the others ends.

Decides from the mapping and the catalog alone, without looking at a row, and keeps a foreign key only where both
ends provably always share a shard. Refuses to guess: what cannot be proven is dropped on the shards and listed.
"""

from __future__ import annotations

from dataclasses import dataclass

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    ShardMap,
    Skip,
    SplitByColumn,
)
from fixia_shardmig.model.catalog import Catalog, ForeignKey
from fixia_shardmig.model.names import TableName

# Types whose equal values always have one and the same text, so that equal split values mean equal homes.
_ONE_TEXT_TYPES = frozenset({"text", "varchar", "int2", "int4", "int8", "bool", "uuid"})


@dataclass(frozen=True, slots=True)
class ForeignKeyFate:
    """What becomes of one foreign key. `reason` completes the sentence "kept/dropped, since …"."""

    key: ForeignKey
    kept: bool
    reason: str

    def kept_on(self, shard_map: ShardMap, catalog: Catalog, shard: str) -> bool:
        """Whether a shard gets this foreign key: it is kept, and both its tables live there."""
        ends = (catalog.tables[self.key.table].root, catalog.tables[self.key.references].root)
        return self.kept and all(shard in shard_map.shards_of(end) for end in ends)


def foreign_key_fates(shard_map: ShardMap, catalog: Catalog) -> tuple[ForeignKeyFate, ...]:
    """Return what becomes of every foreign key between tables that the mapping names, in the catalog's order."""
    return tuple(
        ForeignKeyFate(key, *_decide(key, shard_map, catalog))
        for key in catalog.foreign_keys
        if all(catalog.tables[end].root in shard_map.tables for end in (key.table, key.references))
    )


def possible_homes(shard_map: ShardMap, table: TableName) -> frozenset[str]:
    """Return the shards that a row of a table can have as its home under the rules."""
    rule = shard_map.tables[table]
    everywhere = frozenset(shard_map.shard_names)
    match rule:
        case Skip():
            return frozenset()
        case Reference():
            return everywhere
        case OnShard(shard):
            return frozenset({shard})
        case Follows(paths):
            parents = {path.references for path in paths}
            homes = frozenset(home for parent in parents for home in possible_homes(shard_map, parent))
        case _:
            homes = frozenset(rule.homes.values()) or everywhere
    return homes | ({rule.otherwise} if rule.otherwise else frozenset())


def _decide(key: ForeignKey, shard_map: ShardMap, catalog: Catalog) -> tuple[bool, str]:
    child, parent = catalog.tables[key.table].root, catalog.tables[key.references].root
    child_rule, parent_rule = shard_map.tables[child], shard_map.tables[parent]
    homes = possible_homes(shard_map, child) | possible_homes(shard_map, parent)
    if isinstance(child_rule, Skip | Reference) or isinstance(parent_rule, Skip | Reference):
        return _decide_whole_tables(child, child_rule, parent, parent_rule)
    if len(homes) == 1:
        return True, f"both tables live on {next(iter(homes))} only"
    if isinstance(child_rule, Follows):
        return _decide_follower(key, child_rule, parent, catalog)
    if isinstance(child_rule, SplitByColumn) and isinstance(parent_rule, SplitByColumn):
        return _decide_split(key, child_rule, parent_rule, catalog)
    return False, f"a row of {child} and the row of {parent} that it references can have different homes"


def _decide_whole_tables(child: TableName, child_rule: Rule, parent: TableName, parent_rule: Rule) -> tuple[bool, str]:
    """Decide where one end is a table that is everywhere or nowhere."""
    for table, rule in ((child, child_rule), (parent, parent_rule)):
        if isinstance(rule, Skip):
            return False, f"{table} is not moved"
    if isinstance(parent_rule, Reference):
        return True, f"{parent} is on every shard"
    return False, f"{child} is on every shard, the rows of {parent} are not"


def _decide_follower(key: ForeignKey, rule: Follows, parent: TableName, catalog: Catalog) -> tuple[bool, str]:
    """Keep the first path's key: where it is not NULL it decides. A later path decides only where others are NULL."""
    first = rule.paths[0]
    pairs, deciding = _pairs(key), set(zip(first.columns, first.to, strict=True))
    if first.references == parent and deciding <= pairs:
        if deciding == pairs:
            return True, f"it decides the row's home ({', '.join(key.columns)})"
        if catalog.tables[parent].unique_on(first.to):
            return True, f"it holds the reference that decides the row's home ({', '.join(first.columns)})"
    if any(_is_path(path, key, parent) for path in rule.paths[1:]):
        return False, f"it decides the row's home only where {', '.join(first.columns)} is NULL"
    return False, f"the row's home is decided by {', '.join(first.columns)}, not by {', '.join(key.columns)}"


def _is_path(path: Path, key: ForeignKey, parent: TableName) -> bool:
    return path.references == parent and set(zip(path.columns, path.to, strict=True)) == _pairs(key)


def _decide_split(
    key: ForeignKey, child_rule: SplitByColumn, parent_rule: SplitByColumn, catalog: Catalog
) -> tuple[bool, str]:
    """Keep a key that holds the split values of both sides, where both sides send equal values to equal homes."""
    same_homes = dict(child_rule.homes) == dict(parent_rule.homes) and child_rule.otherwise == parent_rule.otherwise
    child_column = catalog.tables[key.table].column(child_rule.column)
    parent_column = catalog.tables[key.references].column(parent_rule.column)
    if (child_rule.column, parent_rule.column) in _pairs(key) and same_homes and child_column and parent_column:
        one_text = child_column.type_kind == "e" or child_column.base_type in _ONE_TEXT_TYPES
        if one_text and child_column.type_text == parent_column.type_text and parent_column.collation_deterministic:
            return True, f"it holds the value that decides both homes ({child_rule.column})"
    return False, f"{key.table} and {key.references} are each split by their own value"


def _pairs(key: ForeignKey) -> set[tuple[str, str]]:
    return set(zip(key.columns, key.referenced_columns, strict=True))

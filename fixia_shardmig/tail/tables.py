"""What the tail has to know of a table, worked out once: its key, what decides its home, who follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Path,
    Reference,
    Rule,
    ShardMap,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
    topological,
)
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.errors import DriftError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key, as_cast_to_text, comparable
from fixia_shardmig.postgres.pgoutput import UNCHANGED, Relation, Unchanged
from fixia_shardmig.tail.statements import UPSERT, put_kind

Value = str | Unchanged | None
Row = tuple[Value, ...]
_REWRITTEN_KEYS = frozenset({"numeric", "float4", "float8", "citext", "bpchar", "inet"})
_REWRITTEN_VALUES = _REWRITTEN_KEYS | {"bool"}
"""Types of which a value's text in the stream is not what a key or `::text` shows."""


class Keyspace(NamedTuple):
    """Columns of a table by which rows are found: its identity, or what others follow it by."""

    table: TableName
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Follower:
    """A table that follows another over one of its paths."""

    root: TableName
    path: Path


@dataclass(frozen=True, slots=True)
class TailTable:
    """One table that holds rows: an ordinary table or a leaf partition.

    Attributes:
        own: How its rows are found by identity; no columns for a table without a key.
        tracked: Keyspaces others follow it by, beyond its own.
        deciding: The columns that decide a row's home.
        fixed_mask: The shards as bits where the home does not depend on the row, else None.
        allowed_mask: Every shard its rows can be on.
        undeclared: Keyspaces others follow it by without a foreign key behind.
        names_types: Whether another table's split value stands in this one.
    """

    table: Table
    root: TableName
    rule: Rule
    own: Keyspace
    tracked: tuple[Keyspace, ...]
    deciding: tuple[str, ...]
    fixed_mask: int | None
    allowed_mask: int
    undeclared: tuple[Keyspace, ...]
    names_types: bool

    @property
    def leaf(self) -> TableName:
        """Return the name of the table that holds the rows."""
        return self.table.name

    @property
    def keyed(self) -> bool:
        """Whether rows have an identity that finds them."""
        return bool(self.own.columns)


class TailTables:
    """All tables of a migration as the tail sees them."""

    def __init__(self, shard_map: ShardMap, catalog: Catalog) -> None:
        """Work out every leaf of every moved table."""
        self.shard_map = shard_map
        self.catalog = catalog
        self.order = topological(shard_map.tables)
        self.followers = _followers(shard_map)
        self.by_leaf: dict[TableName, TailTable] = {}
        self.by_root: dict[TableName, list[TailTable]] = {}
        for root in self.order:
            for leaf in catalog.leaves(root):
                self.by_leaf[leaf.name] = table = self._tail_table(leaf)
                self.by_root.setdefault(root, []).append(table)

    def parents(self) -> frozenset[Keyspace]:
        """Return by what rows are followed: asked for again and again, by every row that comes to follow."""
        return frozenset(Keyspace(root, follower.path.to) for root, its in self.followers.items() for follower in its)

    def of(self, relation: Relation) -> TailTable:
        """Return the table of a Relation message, which is mapped by name since OIDs are the source's (pitfall 35)."""
        name = TableName(relation.schema, relation.name)
        table = self.by_leaf.get(name)
        if table is None:
            raise DriftError(
                f"table {name} was created after the plan",
                hint="create it on the targets with the same definition, then: shardmig tail",
            )
        return table

    def _tail_table(self, leaf: Table) -> TailTable:
        root, rule = leaf.root, self.shard_map.tables[leaf.root]
        own = Keyspace(leaf.name, leaf.identity_columns)
        paths = [follower.path for follower in self.followers.get(root, ())]
        spaces = {Keyspace(root, path.to): path.declared for path in sorted(paths, key=lambda p: p.declared)}
        return TailTable(
            table=leaf,
            root=root,
            rule=rule,
            own=own,
            tracked=tuple(space for space in dict.fromkeys(Keyspace(root, p.to) for p in paths) if space != own),
            deciding=deciding_columns(rule),
            fixed_mask=_fixed_mask(rule, self.shard_map),
            allowed_mask=self._mask(self.shard_map.shards_of(root)),
            undeclared=tuple(dict.fromkeys(Keyspace(root, path.to) for path in paths if not path.declared and spaces)),
            names_types=any(
                isinstance(other, SplitByReference) and other.references == root
                for other in self.shard_map.tables.values()
            ),
        )

    def _mask(self, shards: Iterable[str]) -> int:
        names = self.shard_map.shard_names
        return sum(1 << names.index(shard) for shard in shards)


def deciding_columns(rule: Rule) -> tuple[str, ...]:
    """Return the columns of its own row that a rule looks at."""
    match rule:
        case SplitByColumn() | SplitByReference():
            return (rule.column,)
        case SplitBySql():
            return rule.columns
        case Follows(paths):
            return tuple(dict.fromkeys(column for path in paths for column in path.columns))
        case _:
            return ()


def _fixed_mask(rule: Rule, shard_map: ShardMap) -> int | None:
    names = shard_map.shard_names
    match rule:
        case OnShard(shard):
            return 1 << names.index(shard)
        case Reference():
            return (1 << len(names)) - 1
        case _:
            return None


def _followers(shard_map: ShardMap) -> dict[TableName, list[Follower]]:
    followers: dict[TableName, list[Follower]] = {}
    for root, rule in shard_map.tables.items():
        if isinstance(rule, Follows):
            for path in rule.paths:
                followers.setdefault(path.references, []).append(Follower(root, path))
        elif isinstance(rule, SplitByReference):
            path = Path((rule.column,), rule.references, (rule.referenced_column,), declared=False)
            followers.setdefault(rule.references, []).append(Follower(root, path))
    return followers


@dataclass(frozen=True, slots=True)
class ParentPlace:
    """Where a row names a parent by plain text, and what is known of that parent's keyspace."""

    space: Keyspace
    places: tuple[int, ...]
    located: dict[Key, int]


class RelationPlan:
    """Where in a relation's tuples the columns stand that the tail looks at, and what is known of their keys."""

    def __init__(self, tables: TailTables, relation: Relation, within: Callable[[Keyspace], dict[Key, int]]) -> None:
        """Remember positions; the relation's shape has been held against the shards'.

        Args:
            tables: All tables of the migration.
            relation: The stream's.
            within: What is known of a keyspace: key -> shard set, kept up to date.
        """
        self.table = table = tables.of(relation)
        self.relation = relation
        self.columns = relation.columns
        self.located = within(table.own)
        places = {name: at for at, name in enumerate(relation.columns)}
        self.own_places = tuple(places[name] for name in table.own.columns)
        self.always = frozenset(column.name for column in table.table.columns if column.identity == "a")
        self.put_kind = put_kind(table.table)
        self.identity = self._parts(table.own.columns, places)
        self.tracked = tuple((space, self._parts(space.columns, places)) for space in table.tracked)
        self.undeclared = tuple((space, self._parts(space.columns, places)) for space in table.undeclared)
        self.deciding = tuple((name, places[name], self._column(name)) for name in table.deciding)
        self.full_columns = tuple((name, self._column(name)) for name in relation.columns)
        self.parents = self._parents(tables, places, within)
        self.homes: dict[Value, int] | None = {} if isinstance(table.rule, SplitByColumn) else None
        self.own_key = key_reader(self.identity)
        self.is_plain = self._is_plain()
        self.shape: object = None
        """What the compiled way keeps of this."""

    def _is_plain(self) -> bool:
        """Whether a look at a change of this relation can be enough: its values' texts tell key and home."""
        table = self.table
        by_text = all(column is None for _, column in self.identity)
        by_value = table.fixed_mask is not None or self.homes is not None or bool(self.parents)
        noted = table.tracked or table.undeclared or table.names_types or self.always
        return table.keyed and by_text and by_value and not noted and self.put_kind == UPSERT

    def _column(self, name: str) -> Column:
        column = self.table.table.column(name)
        if column is None:
            raise DriftError(f"column {name} of {self.table.leaf} is unknown", hint="shardmig schema diff")
        return column

    def _parents(
        self, tables: TailTables, places: Mapping[str, int], within: Callable[[Keyspace], dict[Key, int]]
    ) -> tuple[ParentPlace, ...]:
        """Return where the parents stand, in the rule's order; none at all where a value's text is not its key's."""
        if not isinstance(self.table.rule, Follows):
            return ()
        found = []
        for path in self.table.rule.paths:
            theirs = tables.catalog.tables[path.references].column
            columns = [*map(self._column, path.columns), *(column for name in path.to if (column := theirs(name)))]
            if any(column.base_type in _REWRITTEN_VALUES for column in columns):
                return ()
            space = Keyspace(path.references, path.to)
            found.append(ParentPlace(space, tuple(places[name] for name in path.columns), within(space)))
        return tuple(found)

    def parent_of(self, row: Row) -> tuple[ParentPlace, Key] | None:
        """Return the parent that decides a row's home, if its plain text tells; None says to look more closely."""
        for parent in self.parents:
            key = tuple([row[place] for place in parent.places])
            if None not in key:
                return None if UNCHANGED in key else (parent, cast("Key", key))
        return None

    def home_mask(self, row: Row) -> int:
        """Return a row's home as a shard set where one look tells; 0 says to look more closely."""
        table = self.table
        if table.fixed_mask is not None:
            return table.fixed_mask
        if self.homes is not None:
            return self.homes.get(row[self.deciding[0][1]], 0)
        found = self.parent_of(row)
        if found is None:
            return 0
        mask = found[0].located.get(found[1], 0)
        return mask & -mask

    def _parts(self, columns: tuple[str, ...], places: Mapping[str, int]) -> tuple[tuple[int, Column | None], ...]:
        parts = []
        for name in columns:
            column = self._column(name)
            parts.append((places[name], column if column.base_type in _REWRITTEN_KEYS else None))
        return tuple(parts)

    def deciding_values(self, row: Row) -> dict[str, str | None] | None:
        """Return the deciding values as `::text` shows them; None when one was left out as unchanged."""
        values: dict[str, str | None] = {}
        for name, at, column in self.deciding:
            value = row[at]
            if value is UNCHANGED:
                return None
            values[name] = as_cast_to_text(column, value)
        return values

    def cast_to_text(self, row: Row) -> tuple[str | None, ...]:
        """Return all values as `::text` shows them."""
        return tuple(
            as_cast_to_text(column, value) if isinstance(value, str) else None
            for (_, column), value in zip(self.full_columns, row, strict=True)
        )


def rewritten_columns(table: Table, names: tuple[str, ...]) -> tuple[Column, ...]:
    """Return the columns of a key, or none at all when its texts are equal exactly if its values are."""
    columns = tuple(column for name in names if (column := table.column(name)))
    return columns if any(column.base_type in _REWRITTEN_KEYS for column in columns) else ()


def key_reader(parts: tuple[tuple[int, Column | None], ...]) -> Callable[[Row], Key | None]:
    """Return `key_of` for these parts; of a single plain column, as most keys are, a quicker one."""
    if len(parts) != 1 or parts[0][1] is not None:
        return lambda row: key_of(row, parts)
    place = parts[0][0]

    def read(row: Row) -> Key | None:
        value = row[place]
        return (value,) if isinstance(value, str) else None

    return read


def key_of(row: Row, parts: tuple[tuple[int, Column | None], ...]) -> Key | None:
    """Return the comparable key of a tuple, or None when a part is NULL or was left out as unchanged."""
    key = []
    for at, column in parts:
        value = row[at]
        if not isinstance(value, str):
            return None
        key.append(comparable(column, value) if column else value)
    return tuple(key)

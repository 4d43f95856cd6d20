"""The mapping as the other rooms see it: frozen and already validated. Reading the file is `mapping.load`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fixia_shardmig.model.names import TableName


@dataclass(frozen=True, slots=True)
class SplitByColumn:
    """The row's own value in `column` has a home. Values are compared as text; booleans are `true` and `false`."""

    column: str
    homes: Mapping[str, str]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class SplitByReference:
    """The home is that of `value` in the row of a small reference table that `column` points to."""

    column: str
    references: TableName
    referenced_column: str
    value: str
    homes: Mapping[str, str]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class SplitBySql:
    """An immutable SQL expression over the row's own columns gives a value of `homes`; without them a shard's name."""

    expression: str
    columns: tuple[str, ...]
    """The columns the expression may read (a superset is fine)."""
    homes: Mapping[str, str]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """One reference that can decide a row's home: `columns` of this table point to `to` of `references`.

    `declared` tells whether a foreign key stands behind it; without one the parent may come later or go first.
    """

    columns: tuple[str, ...]
    references: TableName
    to: tuple[str, ...]
    declared: bool


@dataclass(frozen=True, slots=True)
class Follows:
    """The row lives where the row it references lives; the first path without a NULL decides."""

    paths: tuple[Path, ...]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class OnShard:
    """The whole table lives on one shard."""

    shard: str


@dataclass(frozen=True, slots=True)
class Reference:
    """The whole table lives on every shard."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The table is not moved, and the mapping says why."""

    reason: str


Rule = SplitByColumn | SplitByReference | SplitBySql | Follows | OnShard | Reference | Skip


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A database's URL, a secret: its repr shows no password. `replicas` are read-only copies of it."""

    url: str = field(repr=False)
    replicas: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A pooler that cutover pauses and re-points.

    Attributes:
        admin_url: Of its console; a secret.
        databases_file: The one included file that shardmig owns; empty where a hook re-points.
        aliases: Shard -> name of its database there.
    """

    admin_url: str = field(repr=False)
    databases_file: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """A mapping file, read and checked against the source's catalog.

    Attributes:
        name: The migration's name, [a-z0-9_], at most 40 characters.
        shards: Shard name -> endpoint, in the file's order.
        journal_shard: The one shard that keeps the journal.
        tables: One rule for each root table of the source (partitions follow their root).
    """

    name: str
    file: str
    source: Endpoint
    shards: Mapping[str, Endpoint]
    journal_shard: str
    tables: Mapping[TableName, Rule]
    pgbouncers: tuple[PgBouncer, ...] = ()
    on_switch: tuple[str, ...] = ()
    cache_url: str = field(default="", repr=False)
    cache_ttl: Mapping[str, int] = field(default_factory=dict)

    @property
    def shard_names(self) -> tuple[str, ...]:
        """Return the shards in the file's order; a shard's place in it is its number in the copy."""
        return tuple(self.shards)

    @property
    def reference_home(self) -> str:
        """Return the shard on which reference tables are written once the shards have the writes."""
        return self.journal_shard

    def back_name(self, shard: str) -> str:
        """Return the name of a shard's slot and publication of the way back; slots are named server by server."""
        return f"shardmig_{self.name}_back_{self.shard_names.index(shard)}"

    def reference_name(self, shard: str) -> str:
        """Return the name of the slot and the subscription by which a shard gets the reference tables."""
        return f"shardmig_{self.name}_ref_{self.shard_names.index(shard)}"

    def references(self) -> frozenset[TableName]:
        """Return the tables that live on every shard."""
        return frozenset(name for name, rule in self.tables.items() if isinstance(rule, Reference))

    def written_on(self, shard: str) -> frozenset[TableName]:
        """Return the tables that may be written on a shard once the shards have the writes."""
        listed = self.moved() if shard == self.reference_home else self.moved() - self.references()
        return frozenset(table for table in listed if shard in self.shards_of(table))

    def moved(self) -> frozenset[TableName]:
        """Return the tables whose rows reach some shard."""
        return frozenset(name for name, rule in self.tables.items() if not isinstance(rule, Skip))

    def fingerprint(self) -> str:
        """Return a digest over everything that decides where rows go; URLs, hooks and skipped tables are left out."""
        digest = hashlib.sha256(repr((self.name, self.shard_names, self.journal_shard)).encode())
        for name, rule in sorted(self.tables.items()):
            if not isinstance(rule, Skip):
                digest.update(repr((str(name), rule)).encode())
        return digest.hexdigest()[:16]

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the moved tables' rules as the journal keeps them, to hold a later mapping against."""
        return {str(name): _record(self.tables[name]) for name in sorted(self.moved())}

    def shards_of(self, table: TableName) -> tuple[str, ...]:
        """Return every shard on which rows of a table can live."""
        match self.tables[table]:
            case Skip():
                return ()
            case OnShard(shard):
                return (shard,)
            case _:
                return self.shard_names


def _record(rule: Rule) -> dict[str, Any]:
    homes = {} if isinstance(rule, Follows | OnShard | Reference | Skip) else dict(rule.homes)
    otherwise = None if isinstance(rule, OnShard | Reference | Skip) else rule.otherwise
    fixed = {f.name: getattr(rule, f.name) for f in fields(rule) if f.name not in {"homes", "otherwise"}}
    return {"rule": f"{type(rule).__name__} {fixed}", "homes": homes, "otherwise": otherwise}


def only_gains_homes(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every row that had a home has the same one now: values without one may have got one, nothing else.

    Both are `ShardMap.rules()`. Where there was an `otherwise`, every value had a home.
    """
    return before.keys() == now.keys() and all(_gains(before[table], now[table]) for table in before)


def _gains(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before == now:
        return True
    if before["rule"] != now["rule"] or before["otherwise"] is not None:
        return False
    named = bool(before["homes"]) or not now["homes"]  # without homes a value of SQL is a shard's name
    return named and before["homes"].items() <= now["homes"].items()


def topological(tables: Mapping[TableName, Rule]) -> tuple[TableName, ...]:
    """Return the moved tables, parents before those that follow them.

    The mapping's check has refused circles, those of one table too.
    """
    ordered: dict[TableName, None] = {}

    def visit(name: TableName) -> None:
        rule = tables[name]
        if name in ordered or isinstance(rule, Skip):
            return
        match rule:
            case Follows(paths):
                for path in paths:
                    visit(path.references)
            case SplitByReference():
                visit(rule.references)
            case _:
                pass
        ordered[name] = None

    for name in sorted(tables):
        visit(name)
    return tuple(ordered)

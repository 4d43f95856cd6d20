"""Catalogs made by hand: tables with a primary key `id` and text columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fixia_shardmig.mapping.shard_map import Endpoint, Rule, ShardMap
from fixia_shardmig.model.catalog import Catalog, Column, Index, Table
from fixia_shardmig.model.names import TableName

SHARDS = ("professionals", "clients", "shared")


def column(name: str, **changes: Any) -> Column:
    """Return a nullable text column, but for what is said otherwise."""
    values: dict[str, Any] = {
        "name": name,
        "number": 1,
        "type_text": "text",
        "base_type": "text",
        "type_kind": "b",
        "type_builtin": True,
        "element_type": "",
        "not_null": False,
        "has_default": False,
        "generated": "",
        "identity": "",
        "collation_deterministic": True,
        "enum_labels": (),
        "binary_io": True,
    }
    return Column(**{**values, **changes})


def table(name: str, *columns: Column | str, key: tuple[str, ...] = ("id",), **changes: Any) -> Table:
    """Return an ordinary table with a primary key."""
    primary = Index(f"{name}_pkey", key, True, True, False, True, True, False, False, "", f"{name}_pkey")  # noqa: FBT003
    values: dict[str, Any] = {
        "name": TableName.parse(name),
        "oid": 1,
        "kind": "r",
        "persistence": "p",
        "partition_of": None,
        "root": TableName.parse(name),
        "inherits": (),
        "replica_identity": "d",
        "columns": tuple(c if isinstance(c, Column) else column(c) for c in ("id", *columns)),
        "indexes": (primary,) if key else (),
        "rows": 0.0,
        "size_bytes": 0,
        "pages": 0,
        "row_security": False,
        "force_row_security": False,
        "owner": "postgres",
        "extension": "",
        "triggers": (),
        "rules": (),
    }
    return Table(**{**values, **changes})


def catalog(*tables: Table, extensions: tuple[tuple[str, str, str], ...] = ()) -> Catalog:
    """Return a catalog of some tables."""
    return Catalog(
        database="d",
        server_version=150000,
        system_identifier="1",
        encoding="UTF8",
        collation="C",
        tables={entry.name: entry for entry in tables},
        foreign_keys=(),
        sequences=(),
        others=(),
        extensions=extensions,
        large_objects=0,
    )


def shard_map(rules: Mapping[str, Rule]) -> ShardMap:
    """Return a mapping to three shards."""
    return ShardMap(
        name="test",
        file="test.yaml",
        source=Endpoint("postgresql://source"),
        shards={shard: Endpoint(f"postgresql://{shard}") for shard in SHARDS},
        journal_shard="shared",
        tables={TableName.parse(name): rule for name, rule in rules.items()},
    )

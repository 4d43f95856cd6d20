"""References between tables, and whether one is fit to decide a home: it must name one parent row, in one spelling."""

from __future__ import annotations

from collections.abc import Iterable

from fixia_shardmig.mapping.shard_map import Path
from fixia_shardmig.model.catalog import Catalog, Column, Table
from fixia_shardmig.model.names import TableName

_TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})
_INTEGERS = frozenset({"int2", "int4", "int8"})
_SEVERAL_TEXTS = frozenset({"numeric", "float4", "float8", "citext", "bpchar", "interval", "jsonb", "inet"})
"""Types in which equal values can read differently, such as 1.0 and 1.00."""

_KNOWN_TO_THE_STREAM = _SEVERAL_TEXTS - {"interval", "jsonb"}
"""Those of them whose values the tail can tell to be equal (`placement.stream.comparable`)."""

_PLAIN_RANGES = frozenset({"int4", "int8", "date", "ts", "tstz"})


def declared_paths(catalog: Catalog, name: TableName) -> tuple[Path, ...]:
    """Return the references a table declares, each once; a reference to a partition is one to its root.

    One with a PERIOD is none to follow, since it names no single row.
    """
    paths: dict[Path, None] = {}
    for key in catalog.foreign_keys_of(name):
        parent = catalog.tables.get(key.references)
        if parent is not None and not key.period:
            paths[Path(key.columns, parent.root, key.referenced_columns, declared=True)] = None
    return tuple(paths)


def same_spelling(child: Column, parent: Column) -> bool:
    """Whether equal keys read the same in both columns.

    Texts do whatever their length, but only a citext points to a citext: `=` compares a text with it as a text, which
    tells `A` and `a` apart. Integers do, whatever their width.
    """
    types = {child.base_type, parent.base_type}
    if len(types) == 1:
        return True
    return (types <= _TEXTS and parent.base_type != "citext") or types <= _INTEGERS


def tells_equal_keys(column: Column) -> bool:
    """Whether the stream, which has the texts of values alone, can tell which ones the server finds equal.

    Not in collations that take several texts for one, and not where values that are spelt in several ways are inside
    of others: in composites, which could hold any type, in arrays and ranges of such types, in jsonb.
    """
    if not column.collation_deterministic or column.type_kind == "c":
        return False
    if column.type_kind in {"r", "m"}:
        kind = column.base_type.removesuffix("multirange").removesuffix("range")
        return column.type_builtin and kind in _PLAIN_RANGES
    return not {column.base_type, column.element_type} & _SEVERAL_TEXTS or column.base_type in _KNOWN_TO_THE_STREAM


def names_one_row(parent: Table, columns: Iterable[str]) -> bool:
    """Whether values in these columns name at most one row of the parent."""
    given = set(columns)
    return any(
        parent.unique_on(index.columns) for index in parent.indexes if index.columns and given >= set(index.columns)
    )


def is_usable(catalog: Catalog, name: TableName, path: Path) -> bool:
    """Whether a declared reference can decide a home, as `check_mapping` demands it."""
    table, parent = catalog.tables[name], catalog.tables[path.references]
    pairs = [(table.column(own), parent.column(to)) for own, to in zip(path.columns, path.to, strict=True)]
    return names_one_row(parent, path.to) and all(
        own
        and to
        and not own.generated
        and not to.generated
        and same_spelling(own, to)
        and tells_equal_keys(own)
        and tells_equal_keys(to)
        for own, to in pairs
    )


def never_null(table: Table, path: Path) -> bool:
    """Whether a path decides for every row."""
    return all((column := table.column(name)) is not None and column.not_null for name in path.columns)

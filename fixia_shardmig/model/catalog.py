"""What a database holds, as far as a split has to know it: a picture taken once, without I/O afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fixia_shardmig.model.names import TableName


@dataclass(frozen=True, slots=True)
class Column:
    """One column that is not dropped.

    Attributes:
        number: `attnum` on this server; other servers number the same column differently.
        type_text: `format_type` of its type with its modifier, schema-qualified unless in pg_catalog.
        base_type: The type under all domains, by its plain `typname`, for example `bpchar` or `UserType`.
        type_kind: `typtype` of the base type: b base, e enum, c composite, r range, m multirange.
        type_builtin: Whether the base type, or for an array its element, lives in pg_catalog.
        element_type: For an array the `typname` of its element, else empty.
        generated: `s` stored, `v` virtual, empty for a plain column. Generated columns are never copied.
        identity: `a` GENERATED ALWAYS, `d` BY DEFAULT, empty without.
        enum_labels: The labels of an enum type (also under a domain), in order.
        binary_io: Whether the type has binary send and receive functions.
    """

    name: str
    number: int
    type_text: str
    base_type: str
    type_kind: str
    type_builtin: bool
    element_type: str
    not_null: bool
    has_default: bool
    generated: str
    identity: str
    collation_deterministic: bool
    enum_labels: tuple[str, ...]
    binary_io: bool


@dataclass(frozen=True, slots=True)
class Index:
    """One index. `columns` is empty when it holds an expression; `valid` is false after a failed CONCURRENTLY."""

    name: str
    columns: tuple[str, ...]
    unique: bool
    primary: bool
    partial: bool
    immediate: bool
    valid: bool
    nulls_not_distinct: bool
    replica_identity: bool
    definition: str
    constraint: str
    """The name of the PK, unique or exclusion constraint that owns it, or empty."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One declared reference. Action letters are those of `pg_constraint`: a, r, c, n, d.

    With `period` the last column lies within the periods of several rows, none of which it names (PostgreSQL 18).
    """

    name: str
    table: TableName
    columns: tuple[str, ...]
    references: TableName
    referenced_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    deferrable: bool
    validated: bool
    period: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table, partition or partitioned root.

    Attributes:
        kind: `relkind`: r ordinary, p partitioned.
        persistence: `relpersistence`: p permanent, u unlogged.
        partition_of: The direct parent of a partition, else None.
        root: The topmost partitioned table, or the table itself.
        inherits: Parents by classic inheritance.
        replica_identity: `relreplident`: d default, i index, f full, n nothing.
        rows: `reltuples`, -1 when never analyzed. `size_bytes` counts the heap and its TOAST, without indexes.
        triggers: (name, `tgenabled`) of user triggers.
    """

    name: TableName
    oid: int
    kind: str
    persistence: str
    partition_of: TableName | None
    root: TableName
    inherits: tuple[TableName, ...]
    replica_identity: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    rows: float
    size_bytes: int
    pages: int
    row_security: bool
    force_row_security: bool
    owner: str
    extension: str
    triggers: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Return the columns of the primary key, or nothing."""
        return next((index.columns for index in self.indexes if index.primary), ())

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """Return the columns by which the stream names a row: the key, the identity index, or nothing.

        With REPLICA IDENTITY FULL the primary key is used where there is one, since the old tuple holds it, unless it
        is deferrable: then two rows can have one key between two changes of a statement.
        """
        if self.replica_identity == "i":
            return next((index.columns for index in self.indexes if index.replica_identity), ())
        if self.replica_identity == "f" and any(index.primary and not index.immediate for index in self.indexes):
            return ()
        return self.primary_key

    @property
    def publishes_identity(self) -> bool:
        """Whether UPDATE and DELETE may run on the source once the table is in a publication."""
        return self.replica_identity == "f" or (self.replica_identity != "n" and bool(self.identity_columns))

    @property
    def copied_columns(self) -> tuple[Column, ...]:
        """Return the columns that travel: all but the generated ones."""
        return tuple(column for column in self.columns if not column.generated)

    def column(self, name: str) -> Column | None:
        """Return a column by its exact name."""
        return next((column for column in self.columns if column.name == name), None)

    def unique_on(self, columns: tuple[str, ...]) -> bool:
        """Whether at most one row can have the same values in exactly these columns."""
        return any(
            index.unique and not index.partial and index.valid and set(index.columns) == set(columns)
            for index in self.indexes
            if index.columns
        )


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence. `owned_by` is (table, column) for serial and identity columns."""

    name: TableName
    data_type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cycle: bool
    last_value: int | None
    owned_by: tuple[TableName, str] | None
    identity: bool
    used_by: tuple[tuple[TableName, str], ...]
    """Columns whose default calls nextval on it."""


@dataclass(frozen=True, slots=True)
class OtherObject:
    """Something that is not a table: view, materialized view, foreign table, function. `kind` says which."""

    kind: str
    name: TableName
    definition: str
    depends_on: tuple[TableName, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """One database's picture.

    Attributes:
        server_version: `server_version_num`, for example 150018.
        extensions: (name, version, schema) of each installed extension but plpgsql.
    """

    database: str
    server_version: int
    system_identifier: str
    encoding: str
    collation: str
    tables: Mapping[TableName, Table]
    foreign_keys: tuple[ForeignKey, ...]
    sequences: tuple[Sequence, ...]
    others: tuple[OtherObject, ...]
    extensions: tuple[tuple[str, str, str], ...]
    large_objects: int

    @property
    def server_major(self) -> int:
        """Return the major version, for example 15."""
        return self.server_version // 10000

    def roots(self) -> Iterator[Table]:
        """Yield the tables a mapping speaks of: everything but partitions and tables of extensions."""
        return (t for t in self.tables.values() if t.partition_of is None and not t.extension)

    def leaves(self, root: TableName) -> tuple[Table, ...]:
        """Return the tables that hold the rows of a root: itself, or its leaf partitions in name order."""
        table = self.tables[root]
        if table.kind != "p":
            return (table,)
        return tuple(t for _, t in sorted(self.tables.items()) if t.root == root and t.kind != "p" and t.partition_of)

    def foreign_keys_of(self, table: TableName) -> tuple[ForeignKey, ...]:
        """Return the references that a table declares."""
        return tuple(key for key in self.foreign_keys if key.table == table)

    def fingerprint(self, tables: frozenset[TableName]) -> str:
        """Return `fingerprint_of` its tables."""
        return fingerprint_of(self.tables, tables)


def fingerprint_of(tables: Mapping[TableName, Table], roots: frozenset[TableName]) -> str:
    """Return a digest over names, types, nullability, keys and identity of the given roots' tables.

    Sizes, statistics and OIDs are left out, so that only a change of definition changes it.
    """
    digest = hashlib.sha256()
    for name, table in sorted(tables.items()):
        if table.root in roots:
            digest.update(repr((str(name), *_shape(table))).encode())
    return digest.hexdigest()[:16]


def _shape(table: Table) -> tuple[object, ...]:
    columns = tuple((c.name, c.type_text, c.not_null, c.generated, c.identity, c.enum_labels) for c in table.columns)
    return (table.kind, table.replica_identity, table.identity_columns, str(table.partition_of), columns)

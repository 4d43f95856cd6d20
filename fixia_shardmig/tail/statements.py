"""Writes the SQL that applies one kind of change to one table. Pure; statements are cached by their shape."""

from __future__ import annotations

import re
from typing import LiteralString, cast

from psycopg import sql

from fixia_shardmig.model.catalog import Column, Table
from fixia_shardmig.postgres.sessions import quoted

_INTEGERS = frozenset({"int2", "int4", "int8"})
UPSERT = "upsert"
REPLACE = "replace"
INSERT = "insert"

_UNPADDED = {"bpchar": "bpchar", "bit": "varbit"}


def target(table: Table) -> sql.Composed:
    """Return `ONLY "schema"."table"`."""
    return sql.SQL("ONLY {}").format(quoted(table.name.schema, table.name.name))


def names(columns: tuple[str, ...]) -> sql.Composed:
    """Return a list of quoted columns."""
    return sql.SQL(", ").join(map(quoted, columns))


def _placeholders(columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join([sql.Placeholder()] * len(columns))


def equal(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return the condition that finds a row by a key; parameters are its values.

    The server reads a text beside `=` as the column's type by itself, but for a composite type it does not know which.
    """
    return sql.SQL(" AND ").join(
        sql.SQL("{} = %s{}").format(
            quoted(name), sql.SQL("::{}").format(key_type(column)) if column.type_kind == "c" else sql.SQL("")
        )
        for name in columns
        if (column := table.column(name))
    )


def insert(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return an INSERT; parameters are the columns' values."""
    if not columns:
        return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(quoted(table.name.schema, table.name.name))
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        quoted(table.name.schema, table.name.name), names(columns), _placeholders(columns)
    )


def upsert(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return an INSERT that overwrites a row of the same key; parameters are the columns' values."""
    key = table.identity_columns
    assignments = [sql.SQL("{0} = excluded.{0}").format(quoted(column)) for column in columns if column not in key]
    action = sql.SQL("UPDATE SET ") + sql.SQL(", ").join(assignments) if assignments else sql.SQL("NOTHING")
    return sql.SQL("{} ON CONFLICT ({}) DO {}").format(insert(table, columns), names(key), action)


def can_upsert(table: Table) -> bool:
    """Whether ON CONFLICT can be used.

    It refuses deferrable keys, those WITHOUT OVERLAPS and tables with rules; SET refuses GENERATED ALWAYS identities.
    """
    key = next((i for i in table.indexes if i.columns == table.identity_columns and i.unique and i.immediate), None)
    always = any(column.identity == "a" and column.name not in table.identity_columns for column in table.columns)
    plain = key is not None and not key.partial and " USING gist (" not in key.definition
    return plain and not always and not table.rules


def put_kind(table: Table) -> str:
    """Return how a complete row is written so that writing it twice is the same as once."""
    if not table.identity_columns:
        return INSERT
    return UPSERT if can_upsert(table) else REPLACE


def update(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return an UPDATE by key; parameters are the new values, then the old key."""
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(quoted(column)) for column in columns)
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(target(table), assignments, equal(table, table.identity_columns))


def regenerate(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return what gives a row other GENERATED ALWAYS identities, which no UPDATE may set: it goes and comes back.

    Parameters are the identities, the row's key before it, and the identities again. A row that has them stays.
    """
    same = sql.SQL(" AND ").join(sql.SQL("{} = %s::int8").format(quoted(column)) for column in columns)
    all_columns = tuple(column.name for column in table.copied_columns)
    values = sql.SQL(", ").join(sql.SQL("%s::int8") if c in columns else quoted("gone", c) for c in all_columns)
    return sql.SQL(
        "WITH gone AS (DELETE FROM {} WHERE NOT ({}) AND {} RETURNING *)"
        " INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone"
    ).format(
        target(table),
        same,
        equal(table, table.identity_columns),
        quoted(table.name.schema, table.name.name),
        names(all_columns),
        values,
    )


def delete(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return a DELETE by the given columns."""
    return sql.SQL("DELETE FROM {} WHERE {}").format(target(table), equal(table, columns))


def delete_one(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return a DELETE of one among equal rows. Values are compared as text: json, xml and point have no `=`."""
    return sql.SQL("DELETE FROM {0} WHERE ctid = (SELECT ctid FROM {0} WHERE {1} LIMIT 1)").format(
        target(table), equal_texts(table, columns)
    )


def equal_texts(table: Table, columns: tuple[str, ...]) -> sql.Composed:
    """Return a condition that finds rows by all their values, true where there are no columns.

    Byte by byte: under the collation of a column two rows can be equal that are not the same. A parameter becomes its
    type's before it is compared, since a session writes a regclass as its own search_path has it.
    """
    one = sql.SQL('{}::text COLLATE pg_catalog."C" IS NOT DISTINCT FROM %s::{}::text')
    same = [one.format(quoted(name), key_type(column)) for name in columns if (column := table.column(name))]
    return sql.SQL(" AND ").join([*same, sql.SQL("true")])


def as_text(columns: tuple[str, ...], alias: str | None = None) -> sql.Composed:
    """Return a select list that shows columns as text under their own names."""
    qualified = [quoted(alias, column) if alias else quoted(column) for column in columns]
    return sql.SQL(", ").join(
        sql.SQL("{}::text AS {}").format(item, quoted(column)) for item, column in zip(qualified, columns, strict=True)
    )


def whole_row(table: Table) -> sql.Composed:
    """Return a select list that shows a row to be written elsewhere, each value in its type's own output.

    A user's type is not cast, since its cast to text may be a function that says something else; psycopg hands over
    the output of types that it does not know.
    """
    return sql.SQL(", ").join(
        sql.SQL("{}::text").format(quoted(column.name)) if column.type_builtin else quoted(column.name)
        for column in table.copied_columns
    )


def key_type(column: Column) -> sql.SQL:
    """Return the type to cast a key's text to, for a query with parameters.

    Without a length, since a cast to one cuts silently.
    """
    if column.base_type in _UNPADDED:
        return sql.SQL(cast("LiteralString", _UNPADDED[column.base_type]))
    text = column.type_text if '"' in column.type_text else re.sub(r"\([^)]*\)", "", column.type_text)
    return sql.SQL(cast("LiteralString", text.replace("%", "%%")))


def wanted_keys(columns: tuple[Column, ...]) -> sql.Composed:
    """Return `unnest(%s::text[], …) WITH ORDINALITY AS u(c0, …, n)`; parameters are one array a column."""
    arrays = sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(columns))
    aliases = sql.SQL(", ").join(quoted(f"c{at}") for at in range(len(columns)))
    return sql.SQL("unnest({}) WITH ORDINALITY AS u({}, n)").format(arrays, aliases)


def matches_wanted(alias: str, columns: tuple[Column, ...]) -> sql.Composed:
    """Return the condition that joins a table's columns with `wanted_keys`."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = u.{}::{}").format(quoted(alias, column.name), quoted(f"c{at}"), _wanted_type(column))
        for at, column in enumerate(columns)
    )


def _wanted_type(column: Column) -> sql.SQL:
    """Return the type to look a key up by: an integer may be wanted that is too large for the column to have it."""
    return sql.SQL("int8") if column.base_type in _INTEGERS else key_type(column)

"""A row as 64 bits: one text form for each value and one hash over a row's values in a fixed order.

The text is the type's own output (pinned settings, see `postgres.sessions`), never a value parsed here (pitfalls 47 to
50): 1.10 is not 1.1, 0 is not -0, json keeps its blanks. Columns go by name, never by number (52).

Two ways to hash:

- `FAST`: `hashtextextended` of each column in COLLATE "C", the hash so far as the next one's seed; which columns are
  NULL is the first seed. Nothing is concatenated, so no two rows can read the same by accident of a border.
- `STABLE`: the first 8 bytes of `sha256` over the row in UTF-8, each value as a quoted SQL literal and NULL bare, which
  is as unambiguous as a length before each. md5 is out: a server in FIPS mode refuses it (55).

PostgreSQL promises that `hashtextextended` is the same on two servers only for one major version and one byte order.
We do not believe versions, we ask: `FAST` is used when all servers give the same answers to `PROBE` and store text
in the same encoding, else `STABLE`. A wrong guess could only report differences that are not there, never hide one.

Every type is hashed by its text. `hashint8extended` and `timestamp_hash_extended` fold 64 bits to 32 (1 and 2^32 have
one hash), and the hashes of numeric, jsonb and float8 call equal what differs.

Measured on PostgreSQL 15, one core, 1 million rows of 12 columns, 200 MB, in seconds: count(*) 0.03, chained hashes of
texts 0.54, of each type's own kind 0.40, one hash over record_out 0.97, format('%L') and sha256 1.9, md5 1.9. Without
OFFSET 0 around it the hash is computed once for each aggregate: twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from psycopg import sql

from fixia_shardmig.model.catalog import Column

NULL_BITS = 62
"""Nullable columns a seed can tell apart: an int8 without its sign, and one bit to spare."""

FORMAT_ARGUMENTS_MAX = 90
"""PostgreSQL takes at most 100 arguments to a function."""

PROBE = """
SELECT array_agg(hashtextextended(repeat('Zurich-0-', n) || chr(32 + n) COLLATE "C", seed * 1234567891011 - n)
                 ORDER BY n, seed)::text
FROM generate_series(0, 40) AS n, generate_series(0, 3) AS seed
"""
"""One text: the hashes of 164 values of many lengths under several seeds, ASCII for the sake of every encoding."""


class HashForm(Enum):
    """How rows are hashed in one comparison; the same on every server."""

    FAST = "hashtextextended"
    STABLE = "sha256"


@dataclass(frozen=True, slots=True)
class Field:
    """One compared column.

    Attributes:
        by_output: Its text is taken from the type's output function: `::text` cuts the blanks off a char(n), and a cast
            of a type that is not PostgreSQL's own may be anything.
        nullable: Whether NULL is possible on any side.
    """

    name: str
    by_output: bool
    nullable: bool


def field_of(column: Column, *, nullable: bool) -> Field:
    """Return how a column is read, decided by its type on the source."""
    own = column.type_builtin and column.type_kind == "b" and column.base_type != "bpchar"
    return Field(column.name, by_output=not own, nullable=nullable)


def text_sql(field: Field) -> sql.Composable:
    """Return a column's text; where it is NULL, NULL. `IS NOT NULL` would ask a composite's fields instead."""
    column = sql.Identifier("t", field.name)
    if not field.by_output:
        return sql.SQL("{}::text").format(column)
    if not field.nullable:
        return sql.SQL("pg_catalog.concat({})").format(column)
    return sql.SQL("CASE WHEN {} IS DISTINCT FROM NULL THEN pg_catalog.concat({}) END").format(column, column)


def texts_sql(fields: tuple[Field, ...]) -> sql.Composable:
    """Return an array of the columns' texts."""
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(text_sql(field) for field in fields))


def row_hash_sql(fields: tuple[Field, ...], form: HashForm) -> sql.Composable:
    """Return the hash over some columns of a row, never NULL."""
    return _chained(fields) if form is HashForm.FAST else _sha256(_literals(fields))


def column_hashes_sql(fields: tuple[Field, ...], form: HashForm) -> sql.Composable:
    """Return the text of an array with one hash a column, NULL where the column is NULL."""
    hashes = [_column_hash(field, form) for field in fields]
    return sql.SQL("(ARRAY[{}]::int8[])::text").format(sql.SQL(", ").join(hashes))


def _column_hash(field: Field, form: HashForm) -> sql.Composable:
    text = text_sql(field)
    if form is HashForm.FAST:
        return sql.SQL('hashtextextended(({}) COLLATE "C", 0)').format(text)
    return _sha256(text)


def _chained(fields: tuple[Field, ...]) -> sql.Composable:
    """Build f(cn, … f(c2, f(c1, seed))) as one flat list: nesting a thousand columns would exhaust Python's stack."""
    parts: list[sql.Composable] = []
    for field in reversed(fields):
        text = (
            sql.SQL("pg_catalog.concat({})").format(sql.Identifier("t", field.name))
            if field.by_output
            else text_sql(field)
        )
        filled = sql.SQL("coalesce({}, '')").format(text) if field.nullable and not field.by_output else text
        parts += [sql.SQL("hashtextextended(("), filled, sql.SQL(') COLLATE "C", ')]
    return sql.Composed([*parts, _null_seed(fields), sql.SQL(")" * len(fields))])


def _null_seed(fields: tuple[Field, ...]) -> sql.Composable:
    """Return an int8 that says which of the columns are NULL, so that NULL and '' never hash alike."""
    names = [field.name for field in fields if field.nullable]
    seed: sql.Composable = sql.SQL("0::int8")
    for start in range(0, len(names), NULL_BITS):
        bits = [
            sql.SQL("CASE WHEN {} IS NULL THEN {}::int8 ELSE 0 END").format(
                sql.Identifier("t", name), sql.Literal(1 << bit)
            )
            for bit, name in enumerate(names[start : start + NULL_BITS])
        ]
        word = sql.SQL("({})").format(sql.SQL(" + ").join(bits))
        seed = word if start == 0 else sql.SQL('hashtextextended({}::text COLLATE "C", {})').format(word, seed)
    return seed


def _literals(fields: tuple[Field, ...]) -> sql.Composable:
    """Return the row as quoted literals with commas between them: 'it''s',NULL,''."""
    pieces: list[sql.Composable] = []
    for start in range(0, len(fields), FORMAT_ARGUMENTS_MAX):
        some = fields[start : start + FORMAT_ARGUMENTS_MAX]
        columns = sql.SQL(", ").join(sql.Identifier("t", field.name) for field in some)
        pieces.append(sql.SQL("pg_catalog.format({}, {})").format(sql.Literal("%L," * len(some)), columns))
    return sql.SQL(" || ").join(pieces)


def _sha256(text: sql.Composable) -> sql.Composable:
    return sql.SQL("('x' || substr(sha256(convert_to({}, 'UTF8'))::text, 3, 16))::bit(64)::int8").format(text)

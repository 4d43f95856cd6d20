"""A row as 64 bits: one text form for each value and one hash over a row's values in a fixed order.

The text is the type's own output (pinned settings, see `postgres.sessions`), never a value parsed here (pitfalls 47 to
50): 1.10 is not 1.1, 0 is not -0, json keeps its blanks. Columns go by name, never by number (52).

Three ways to hash:

- `FAST`: `hashtextextended` of each column in COLLATE "C", the hash so far as the next one's seed; which columns are
  NULL is the first seed. Nothing is concatenated, so no two rows can read the same by accident of a border.
- `NATIVE`: the same chain, but the types in `NATIVE_TYPES` are hashed as what they are and not as what they read.
- `STABLE`: the first 8 bytes of `sha256` over the row in UTF-8, each value as a quoted SQL literal and NULL bare, which
  is as unambiguous as a length before each. md5 is out: a server in FIPS mode refuses it (55).

PostgreSQL promises that its hashes are the same on two servers only for one major version and one byte order. We do
not believe versions, we ask: `FAST` is used when all servers give the same answers to `PROBE` and store text in the
same encoding, `NATIVE` when they also agree on `NATIVE_PROBE`, else `STABLE`. A wrong guess could only report
differences that are not there, never hide one.

A type is hashed as what it is where values that read differently have different hashes (of 64 bits), else by its text:

- int8 and timestamps: their hash functions fold 64 bits to 32, so that 1 and 2^32 have one hash. An int8 goes in as a
  seed, all 64 bits of it. A timestamp is hashed three times: whole, cut to its upper 32 bits by `date_bin`, and the
  side of the year 2000 on which it is, since what folds makes a number and its complement one.
- numeric: its hash knows neither sign nor scale. jsonb: 1.10 and 1.1 have one hash, and what is 32 elements apart may
  change places. float: -0 is 0. char(n), citext and ICU collations: what `=` calls equal. An array's knows no bounds,
  and forgets the seed if the array is empty. An enum's is that of an OID, another one on each server. So text it is.

Measured on PostgreSQL 15, one core, ns a value: uuid 30 (as text 135), int 25 (70), timestamp 50 (131), jsonb of three
keys as text 420, text 35; for a row, count(*) 25 and its whole record as text 1050. Without OFFSET 0 around it the hash
is computed once for each aggregate: twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import LiteralString

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


_ZERO = "2000-01-01 00:00:00+00"
"""From which PostgreSQL counts microseconds; a timestamp is one number of 64 bits."""

_HALF = "interval '4294.967296 s'"
"""2^32 microseconds."""

_LOWEST = "4714-11-25 00:00:00+00 BC"
"""What is earlier, a day at most, is cut to here: `date_bin` would reach below the earliest timestamp and fail."""

_CUT = f"date_bin({_HALF}, greatest({{x}}, {{type}} '{_LOWEST}'), {{type}} '{_ZERO}')"
_SIDE = f"{{h}} # (CASE WHEN {{x}} < {{type}} '{_ZERO}' THEN 1::int8 ELSE 0 END)"
_TIMESTAMP = f"timestamp_hash_extended({{x}}, timestamp_hash_extended({_CUT}, {_SIDE}))".replace("{type}", "timestamp")
_TIMESTAMPTZ = f"hash_array_extended(ARRAY[{{x}}, {_CUT}], {_SIDE})".replace("{type}", "timestamptz")

NATIVE_TYPES: dict[str, tuple[LiteralString, LiteralString]] = {
    "bool": ("hashint4extended({x}::int4, {h})", "false"),
    "int2": ("hashint2extended({x}, {h})", "'0'"),
    "int4": ("hashint4extended({x}, {h})", "'0'"),
    "int8": ("hashint4extended(0, {x} # {h})", "'0'"),
    "uuid": ("uuid_hash_extended({x}, {h})", "'00000000-0000-0000-0000-000000000000'"),
    "bytea": ("hash_array_extended(ARRAY[{x}], {h})", "''"),
    "timestamp": (_TIMESTAMP, "'epoch'"),
    "timestamptz": (_TIMESTAMPTZ, "'epoch'"),
}
"""Built-in base type -> the hash of a value x under the seed h, and what is hashed where it is NULL, which never makes
it equal to that value: NULLs have their bits in the first seed. An array of values that are never NULL keeps the seed.
"""

_SAMPLES: dict[str, LiteralString] = {
    "bool": "(n % 2 = 0)",
    "int2": "((n - 20) * 1637)::int2",
    "int4": "((n - 20) * 107374182)::int4",
    "int8": "((n - 20) * 461168601842738790)::int8",
    "uuid": "lpad((n * 1234567)::text, 32, 'c')::uuid",
    "bytea": "decode(repeat('c0ffee', n), 'hex')",
    "timestamp": "CASE n WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' WHEN 2 THEN '4714-11-24 00:00:00 BC'"
    " WHEN 3 THEN '294276-12-31 23:59:59.999999'"
    f" ELSE timestamp '{_ZERO}' + (n - 20) * {_HALF} + (n % 3 - 1) * interval '0.000001 s' END",
}


def _native_probe() -> LiteralString:
    in_utc: LiteralString = f"({_SAMPLES['timestamp']}) AT TIME ZONE 'UTC'"
    samples: dict[str, LiteralString] = {**_SAMPLES, "timestamptz": in_utc}
    hashes: list[LiteralString] = [
        NATIVE_TYPES[name][0].replace("{x}", f"({sample})").replace("{h}", "seed") for name, sample in samples.items()
    ]
    return (
        f"SELECT array_agg(ARRAY[{', '.join(hashes)}] ORDER BY n, seed)::text FROM generate_series(0, 40) AS n,"
        " (VALUES (0::int8), (-1), (81985529216486895)) AS s (seed)"
    )


NATIVE_PROBE = _native_probe()
"""One text: the hashes of values of every native type, the ends of their ranges among them.

Before 15.6 and 16.2 `date_bin` put a timestamp that begins a bin before the year 2000 into the bin before it.
"""


class HashForm(Enum):
    """How rows are hashed in one comparison; the same on every server."""

    NATIVE = "native"
    FAST = "hashtextextended"
    STABLE = "sha256"


@dataclass(frozen=True, slots=True)
class Field:
    """One compared column.

    Attributes:
        by_output: Its text is taken from the type's output function: `::text` cuts the blanks off a char(n), and a cast
            of a type that is not PostgreSQL's own may be anything.
        nullable: Whether NULL is possible on any side.
        native: The name of its type where that is in `NATIVE_TYPES` and the same on all sides, else empty.
    """

    name: str
    by_output: bool
    nullable: bool
    native: str = ""


def field_of(column: Column, *, nullable: bool, one_type: bool = False) -> Field:
    """Return how a column is read, decided by its type on the source; `one_type` if the shards have that, too."""
    builtin = column.type_builtin and column.type_kind == "b"
    native = column.base_type if builtin and one_type and column.base_type in NATIVE_TYPES else ""
    return Field(column.name, by_output=not builtin or column.base_type == "bpchar", nullable=nullable, native=native)


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
    if form is HashForm.STABLE:
        return _sha256(_literals(fields))
    return _chained(fields, native=form is HashForm.NATIVE)


def column_hashes_sql(fields: tuple[Field, ...], form: HashForm) -> sql.Composable:
    """Return the text of an array with one hash a column, NULL where the column is NULL."""
    hashes = [_column_hash(field, form) for field in fields]
    return sql.SQL("(ARRAY[{}]::int8[])::text").format(sql.SQL(", ").join(hashes))


def _column_hash(field: Field, form: HashForm) -> sql.Composable:
    text = text_sql(field)
    if form is HashForm.STABLE:
        return _sha256(text)
    return sql.SQL('hashtextextended(({}) COLLATE "C", 0)').format(text)


def _chained(fields: tuple[Field, ...], *, native: bool) -> sql.Composable:
    """Build f(cn, … f(c2, f(c1, seed))) as one flat list: nesting a thousand columns would exhaust Python's stack."""
    before: list[sql.Composable] = []
    after: list[sql.Composable] = []
    for field in reversed(fields):
        template, value = _native(field) if native and field.native else _by_text(field)
        around = template.replace("{x}", "{0}").partition("{h}")
        before.append(sql.SQL(around[0]).format(value))
        after.append(sql.SQL(around[2]).format(value))
    return sql.Composed([*before, _null_seed(fields), *reversed(after)])


def _by_text(field: Field) -> tuple[LiteralString, sql.Composable]:
    """Return the template of a column's hash and the text in it, never NULL."""
    text = text_sql(field)
    if field.by_output:
        text = sql.SQL("pg_catalog.concat({})").format(sql.Identifier("t", field.name))
    elif field.nullable:
        text = sql.SQL("coalesce({}, '')").format(text)
    return 'hashtextextended(({x}) COLLATE "C", {h})', text


def _native(field: Field) -> tuple[LiteralString, sql.Composable]:
    """Return the same of a column that is hashed as what it is. The cast takes a domain off."""
    template, instead = NATIVE_TYPES[field.native]
    value = sql.SQL("{}::{}").format(sql.Identifier("t", field.name), sql.Identifier("pg_catalog", field.native))
    return template, sql.SQL("coalesce({}, {})").format(value, sql.SQL(instead)) if field.nullable else value


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

"""Writes the schema `keys`: for each type that can be a key, a split parent and a child that follows by that type.

Where a type has several texts for one value, the child spells its parent's key in another way than the parent does.
"""

from __future__ import annotations

from pathlib import Path

PRELUDE = """
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('1', 'two', 'three %', '4', '5', '6', '7', '8');
CREATE TYPE pair AS (a int, b numeric);
CREATE TYPE floats AS RANGE (subtype = double precision);
CREATE DOMAIN mail AS citext;
CREATE DOMAIN price AS numeric(10, 3);
CREATE DOMAIN codes AS int[];
"""

KEYS = {
    # name: (type of the parent, type of the child, the n-th key, the same in another spelling)
    "numeric": ("numeric", "numeric", "n + 0.50", "n + 0.5"),
    "numeric whole": ("numeric(8, 2)", "numeric", "n * 10", "n * 10"),
    "price": ("price", "numeric", "n", "n"),
    "float8": (
        "double precision",
        "double precision",
        "(n - 1)::float8",
        "CASE n WHEN 1 THEN '-0'::float8 ELSE n - 1 END",
    ),
    "integer": ("integer", "smallint", "n", "n"),
    "wider": ("smallint", "bigint", "n", "n"),
    "oid": ("oid", "oid", "4294967280 + n", "4294967280 + n"),
    "bpchar": ("char(6)", "char(9)", "'k' || n", "'k' || n || ' '"),
    "varchar": ("varchar(6)", "text", "'k ' || n", "'k ' || n"),
    "name": ("name", "name", "'k' || n", "'k' || n"),
    '"char"': ('"char"', '"char"', "chr(64 + n::int)", "chr(64 + n::int)"),
    "citext": ("citext", "citext", "'key ' || n", "'KEY ' || n"),
    "mail": ("mail", "mail", "'key ' || n", "'kEY ' || n"),
    "enum": ("mood", "mood", "(enum_range(NULL::mood))[n]", "(enum_range(NULL::mood))[n]"),
    "bytea": ("bytea", "bytea", "decode(repeat('0' || n, n::int), 'hex')", "decode(repeat('0' || n, n::int), 'hex')"),
    "bit": ("bit(4)", "bit(4)", "n::bit(4)", "n::bit(4)"),
    "varbit": ("varbit", "varbit", "(n::bit(4))::varbit", "(n::bit(4))::varbit"),
    "date": ("date", "date", "date '2024-02-28' + n::int", "date '2024-02-28' + n::int"),
    "timestamptz": (
        "timestamptz",
        "timestamptz",
        "'2024-10-27 00:00+00'::timestamptz + n::int * interval '20 min'",
        "'2024-10-27 02:00+02'::timestamptz + n::int * interval '20 min'",
    ),
    "timetz": ("timetz", "timetz", "make_time(n::int, 0, 0)::timetz", "make_time(n::int, 0, 0)::timetz"),
    "interval": ("interval", "interval", "n::int * interval '1 day'", "n::int * interval '24 hours'"),
    "uuid": ("uuid", "uuid", "md5(n::text)::uuid", "md5(n::text)::uuid"),
    "inet": ("inet", "inet", "'10.0.0.0'::inet + n", "('10.0.0.' || n || '/32')::inet"),
    "macaddr": ("macaddr", "macaddr", "('08:00:2b:01:02:0' || n)::macaddr", "('08-00-2b-01-02-0' || n)::macaddr"),
    "money": ("money", "money", "(n * 1000.5)::numeric::money", "(n * 1000.5)::numeric::money"),
    "pg_lsn": ("pg_lsn", "pg_lsn", "('0/' || n)::pg_lsn", "('0/0' || n)::pg_lsn"),
    "jsonb": ("jsonb", "jsonb", "jsonb_build_object('n', n + 0.50)", "jsonb_build_object('n', n + 0.5)"),
    "numeric array": ("numeric[]", "numeric[]", "ARRAY[n + 0.50, NULL]", "ARRAY[n + 0.5, NULL]"),
    "text array": ("text[]", "text[]", "ARRAY['a,' || n, NULL, '\"', '']", "ARRAY['a,' || n, NULL, '\"', '']"),
    "codes": ("codes", "codes", "ARRAY[n, n]", "ARRAY[n, n]"),
    "composite": ("pair", "pair", "ROW(n, n + 0.50)::pair", "ROW(n, n + 0.5)::pair"),
    "partly null": ("pair", "pair", "ROW(n, NULL)::pair", "ROW(n, NULL)::pair"),
    "range": ("numrange", "numrange", "numrange(n, n + 0.50)", "numrange(n, n + 0.5)"),
    "int range": ("int4range", "int4range", "int4range(n::int, n::int, '[]')", "int4range(n::int, n::int + 1)"),
    "floats": ("floats", "floats", "floats(0, n::float8)", "floats('-0', n::float8)"),
    "hstore": ("hstore", "hstore", "hstore('k', n::text)", "hstore('k', n::text)"),
}
NOT_FOLLOWED = {"interval", "jsonb", "numeric array", "composite", "partly null", "range", "floats"}
"""Keys whose spelling the stream cannot see through: the mapping refuses to follow them."""


def write(folder: Path) -> None:
    """Write all files of the schema into a folder."""
    schema, rows, mapping, homes = [PRELUDE], [], [HEAD], []
    for name, (parent, child, key, other) in KEYS.items():
        p, c = _quoted(f"parent {name}"), _quoted(f"child {name}")
        schema.append(f"CREATE TABLE {p} (k {parent} PRIMARY KEY, side boolean NOT NULL);")
        schema.append(
            f"CREATE TABLE {c} (id int PRIMARY KEY, k {child} REFERENCES {p} ON DELETE CASCADE ON UPDATE CASCADE);"
        )
        rows.append(
            f"INSERT INTO {p} SELECT {key}, n % 2 = 0 FROM generate_series(1, 8::bigint) n WHERE n NOT IN (6, 7);"
        )
        rows.append(f"INSERT INTO {c} SELECT n, {other} FROM generate_series(1, 5::bigint) n;")
        mapping.append(f"  {_yaml(f'parent {name}')}: {{split_by: side, homes: {{true: north, false: south}}}}")
        rule = "{shard: hub}" if name in NOT_FOLLOWED else "{follows: k, otherwise: hub}"
        mapping.append(f"  {_yaml(f'child {name}')}: {rule}")
        homes.append(f"-- table: {p}\nSELECT z, CASE WHEN side THEN 'north' ELSE 'south' END FROM {p} z")
        home = (
            "'hub'"
            if name in NOT_FOLLOWED
            else "CASE p.side WHEN true THEN 'north' WHEN false THEN 'south' ELSE 'hub' END"
        )
        homes.append(f"-- table: {c}\nSELECT z, {home} FROM {c} z LEFT JOIN {p} p ON p.k = z.k")
    for file, lines in (("schema.sql", schema), ("rows.sql", rows), ("mapping.yaml", mapping), ("homes.sql", homes)):
        (folder / file).write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "changes.sql").write_text(_changes(), "utf-8")


HEAD = """version: 1
name: keys
source: {url: "${SOURCE_URL}"}
shards:
  north: {url: "${NORTH_URL}"}
  south: {url: "${SOUTH_URL}"}
  hub: {url: "${HUB_URL}", journal: true}
tables:"""


def _changes() -> str:
    """Return changes of every parent: it moves, comes together with its children, goes, and gets another key."""
    phases = {"before the tail": "", "during the tail": "", "after the indexes": ""}
    for name, (parent, _, key, other) in KEYS.items():
        p, c = _quoted(f"parent {name}"), _quoted(f"child {name}")

        def nth(n: int, text: str) -> str:
            return f"(SELECT ({text})::{parent} FROM (VALUES ({n}::bigint)) v(n))"  # noqa: B023  called at once

        phases["before the tail"] += (
            f"UPDATE {p} SET side = NOT side WHERE k = {nth(1, key)};\n"
            f"INSERT INTO {p} VALUES ({nth(6, key)}, true);\nINSERT INTO {c} VALUES (6, {nth(6, other)});\n-- then\n"
            f"UPDATE {c} SET k = {nth(1, other)} WHERE id = 3;\n-- then\n"
        )
        phases["during the tail"] += (
            f"UPDATE {p} SET k = {nth(7, key)} WHERE k = {nth(2, key)};\n-- then\n"
            f"UPDATE {p} SET k = {nth(4, other)}, side = false WHERE k = {nth(4, key)};\n-- then\n"
            f"DELETE FROM {p} WHERE k = {nth(5, key)};\n-- then\n"
        )
        phases["after the indexes"] += (
            f"INSERT INTO {c} VALUES (7, {nth(7, other)}), (8, {nth(8, other)}), (9, NULL);\n-- then\n"
            f"UPDATE {p} SET side = NOT side;\n"
            f"UPDATE {c} SET k = {nth(8, other)} WHERE id = 9;\n-- then\n"
            f"DELETE FROM {p} WHERE k = {nth(8, other)};\n-- then\n"
            f"INSERT INTO {p} VALUES ({nth(8, other)}, false);\nINSERT INTO {c} VALUES (10, {nth(8, key)});\n-- then\n"
        )
    return "".join(f"-- phase: {phase}\n{text}SELECT 1;\n" for phase, text in phases.items())


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _yaml(name: str) -> str:
    return "'" + (_quoted(name) if '"' in name else name) + "'"

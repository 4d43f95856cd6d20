"""Values arrive as they are: every type, every setting that changes how one reads, names and shapes of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from fixia_shardmig.copy.chunks import can_use_binary
from fixia_shardmig.copy.worker import copy_chunk
from fixia_shardmig.model.errors import ShardmigError, UnroutableError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.sessions import session
from tests.fixtures.fix_migrations import EVERYWHERE, SHARDS, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
USERS = "users: {split_by: kind, homes: {a: north, b: south}, otherwise: west}"
OF_OWNER = f"(SELECT {KIND} FROM users WHERE id = t.owner)"

TYPES_DDL = """
CREATE EXTENSION hstore; CREATE EXTENSION citext;
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, NULL);
CREATE TABLE plain (id int PRIMARY KEY, owner int REFERENCES users, i2 int2, i8 int8, f4 float4, f8 float8, n numeric,
    t text, v varchar(20), c char(9), b bytea, ts timestamp, tz timestamptz, d date, ti time, tt timetz, iv interval,
    bo bool, u uuid, j json, jb jsonb, ip inet, ci cidr, m macaddr, p point, bx box, pa path, po polygon, l line,
    lp lseg, cr circle, bi bit(3), vb varbit, ts2 tsvector, a int[], a2 text[], r int4range, mr nummultirange,
    q "char", na name, o oid, xi xid8, ls pg_lsn, e mood, dm code, jp jsonpath);
CREATE TABLE own (id int PRIMARY KEY, owner int REFERENCES users, ea mood[], pr pair, pra pair[], sp span, h hstore,
    ci citext, cia citext[], mo money, re regclass, da code[], sm span_multirange, tq tsquery);
"""
PLAIN_ROWS = (
    """-32768, 9223372036854775807, 'NaN', '-0', 1.10, E'tab\\t nl\\n back\\\\ ü😀', '\\N', 'pad', '\\x00ff',
    'infinity', '-infinity', '4713-01-01 BC', '24:00', '12:00+05:30', '1 mon -2 days 03:00:00.5', true,
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" :  1, "a": 2}', '{"n": 1e400}', '10.1.2.3/8', '10.0.0.0/8',
    '08:00:2b:01:02:03', '(1e-300,2)', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', '{1,2,3}',
    '[(0,0),(1,1)]', '<(0,0),1>', '101', '10101', 'a:1A b', '[0:1]={1,NULL}', '{NULL,"NULL",""}', '[1,5)',
    '{[1.10,2),(5,)}', 'x', 'name', 4294967295, '18446744073709551615', '16/B374D848', 'ok', 'code', '$.a[*]'""",
    """0, 0, 'infinity', 0.1::float8 + 0.2, 'NaN', '', '', '', '', '294276-12-31 23:59:59.999999',
    '294276-12-31 23:59:59.999999+00', 'infinity', '00:00', '00:00-15:59', '-178000000 years', false,
    '00000000-0000-0000-0000-000000000000', 'null', 'null', '::1', '::/0', '00:00:00:00:00:00', '(NaN,Infinity)',
    '((0,0),(0,0))', '((0,0))', '((0,0))', '{1,0,0}', '[(0,0),(0,0)]', '<(0,0),0>', '000', '', '', '{}',
    '{{a,b},{c,d}}', 'empty', '{}', E'\\001', '', 0, '0', '0/0', 'sad', ' ', 'strict $'""",
)
OWN_ROWS = (
    """'{ok,NULL}', '(1,"a,""b")', ARRAY[ROW(1,'x')::pair, NULL], '[0.1,NaN)', 'a=>NULL, "b c"=>"\\""', 'MiXed',
    '{A,a}', 12.34, 'users', '{x,y}', '{[0.1,0.2]}', 'a & !b'""",
    "NULL, NULL, NULL, 'empty', '', '', '{}', -0.01, NULL, NULL, '{}', ''",
)


def with_values(migration_of: Callable[..., Migration], **majors: int) -> Migration:
    """Give a source with every type there is, each value for an owner on another shard."""
    migration = migration_of(f"{USERS}\nplain: {{follows: owner}}\nown: {{follows: owner}}", TYPES_DDL, **majors)
    for number, row in enumerate(PLAIN_ROWS):
        migration.run(f"INSERT INTO plain VALUES ({number}, {1 + number}, {row})")
    for number, row in enumerate(OWN_ROWS):
        migration.run(f"INSERT INTO own VALUES ({number}, {1 + number}, {row})")
    migration.run("INSERT INTO plain (id, owner) VALUES (90, 3)", "INSERT INTO own (id, owner) VALUES (90, 3)")
    return migration


HOMES = {"users": KIND, "plain": OF_OWNER, "own": OF_OWNER}
STRANGE = (
    "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'", "timezone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'", "xmloption = 'document'", "search_path = 'nowhere'", "client_encoding = 'LATIN1'",
    "row_security = on", "statement_timeout = '1h'", "standard_conforming_strings = on",
)  # fmt: skip


def set_strange(migration: Migration) -> None:
    """Give every database defaults that make values read otherwise."""
    for place, url in migration.urls.items():
        for setting in STRANGE if place == "source" else STRANGE[:5]:
            with psycopg.connect(url, autocommit=True) as connection:
                name = connection.info.dbname
                connection.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())


@pytest.mark.parametrize(
    "majors", [{}, {"major": 15}, {"major": 15, "shards_major": 18}, {"major": 18, "shards_major": 15}]
)
def test_every_value_arrives_by_copy_and_by_tail(
    migration_of: Callable[..., Migration], majors: dict[str, int]
) -> None:
    """Pitfalls 47-50: infinity, BC, NaN, -0, scales, json's spelling, array bounds, own types; in any settings."""
    migration = with_values(migration_of, **majors)
    set_strange(migration)
    migration.copy()
    assert migration.judge(HOMES) == 3 + 3 + 3
    migration.run(
        "INSERT INTO plain SELECT id + 100, owner, i2, i8, f4, f8, n, t, v, c, b, ts, tz, d, ti, tt, iv, bo, u, j,"
        " jb, ip, ci, m, p, bx, pa, po, l, lp, cr, bi, vb, ts2, a, a2, r, mr, q, na, o, xi, ls, e, dm, jp FROM plain"
    )
    migration.run("INSERT INTO own SELECT id + 100, owner, ea, pr, pra, sp, h, ci, cia, mo, re, da, sm, tq FROM own")
    migration.run("UPDATE own SET owner = 1 + owner % 3", "UPDATE plain SET owner = 1 + owner % 3")
    migration.run("UPDATE users SET kind = 'b' WHERE id = 1")
    migration.tail()
    assert migration.judge(HOMES) == 3 + 6 + 6


def test_only_tables_of_built_in_types_travel_in_binary(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 47: arrays and composites of own types carry their server's OIDs, money its locale."""
    catalog = with_values(migration_of).context().catalog
    assert can_use_binary(catalog.tables[TableName("public", "plain")])
    assert not can_use_binary(catalog.tables[TableName("public", "own")])


def test_columns_go_by_name(migration_of: Callable[..., Migration]) -> None:
    """Pitfalls 50, 52: camelCase, reserved words, percent, quotes, unicode, 63 bytes, dropped and generated columns."""
    long = "l" * 63
    odd = ("camelCase", "select", "a%s", 'quo"te', "\u00fcn\u00efcode", "a.b", " ", long)
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in odd)
    values = ", ".join(f"'{number}'" for number in range(len(odd)))
    columns = quoted.replace('",', '" text,') + " text"
    migration = migration_of(
        f"{USERS}\nthe Table: {{follows: Owner Id}}\nsales.users: {{reference: true}}",
        "CREATE TABLE users (gone int, id int PRIMARY KEY, kind text); ALTER TABLE users DROP gone;"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b'); CREATE SCHEMA sales;"
        "CREATE TABLE sales.users (id int PRIMARY KEY, \"user\" text); INSERT INTO sales.users VALUES (1, 'same name');"
        f'CREATE TABLE "the Table" (g int GENERATED ALWAYS AS (1) STORED, {columns}, "Id" int, x int, "Owner Id" int'
        ' REFERENCES users, PRIMARY KEY ("Id", "camelCase")); ALTER TABLE "the Table" DROP x;'
        f'INSERT INTO "the Table" ({quoted}, "Id", "Owner Id") SELECT {values}, n, 1 + n % 2'
        " FROM generate_series(1, 6) n",
    ).copy()
    homes = {"users": KIND, "the Table": f'(SELECT {KIND} FROM users WHERE id = t."Owner Id")'}
    migration.judge(homes)
    migration.run('UPDATE "the Table" SET "a%s" = \'%s\', "quo""te" = "select", "Owner Id" = 1 WHERE "Id" < 3')
    migration.run("UPDATE users SET kind = 'b' WHERE id = 1", "INSERT INTO sales.users VALUES (2, 'x')")
    migration.tail()
    migration.judge(homes)
    assert [(1, "same name"), (2, "x")] == migration.rows("south", "sales.users")


def test_row_level_security_is_an_error_not_a_subset(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 53: under a role that a policy applies to, reading refuses instead of leaving rows out."""
    migration = migration_of(
        "users: {reference: true}",
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'reader'; CREATE TABLE users (id int"
        " PRIMARY KEY);"
        "INSERT INTO users VALUES (1), (2); ALTER TABLE users ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY only_one ON users USING (id = 1); GRANT USAGE ON SCHEMA public TO reader; GRANT"
        " SELECT ON users TO reader",
    )
    epochs = migration.begin()
    parts = urlsplit(migration.urls["source"])
    reader = urlunsplit(parts._replace(netloc=f"reader:reader@{parts.hostname}:{parts.port}"))
    with epochs.snapshot(), session(migration.urls["source"], "quoting") as quoting:
        task = replace(epochs.task(epochs.open_chunks()[0], quoting), source_url=reader)
        with pytest.raises(ShardmigError) as refused:
            copy_chunk(task)
    assert "row-level security" in refused.value.message
    assert [migration.rows(shard, "users") for shard in SHARDS] == [[], [], []]
    migration.run("DROP OWNED BY reader", "DROP ROLE reader")


def test_policies_and_triggers_of_the_shards_do_not_touch_what_is_copied(
    migration_of: Callable[..., Migration],
) -> None:
    """Pitfalls 26, 53: FORCE ROW LEVEL SECURITY and triggers are copied as definitions and do not act on rows."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a'), (2, 'b');"
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY nothing ON"
        " users USING (false);"
        "CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER twice BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION twice();"
        "ALTER TABLE users DISABLE TRIGGER twice",
    ).copy()
    migration.run("INSERT INTO users VALUES (3, 'a')")
    migration.tail()
    assert migration.judge({"users": KIND}) == 3


def test_keys_are_bounded_by_blocks_not_by_order(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 51: with a collation of its own a text key orders as it likes; chunks do not ask."""
    migration = migration_of(
        USERS,
        'CREATE TABLE users (id text COLLATE "en-x-icu" PRIMARY KEY, kind text, pad text);'
        "INSERT INTO users SELECT chr(64 + n % 60) || n, chr(97 + n % 3), repeat('p', 500) FROM"
        " generate_series(1, 300) n",
        major=15,
    )
    migration.source.execute("VACUUM ANALYZE users")
    epochs = migration.begin(chunk_bytes=8192)
    with epochs.snapshot():
        assert len(epochs.open_chunks()) > 10
        epochs.take()
    epochs.finish()
    assert migration.judge({"users": KIND}) == 300


def test_a_row_without_a_home_ends_the_copy(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 9: nothing of its chunk is on any shard."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'other')",
    )
    epochs = migration.begin()
    with pytest.raises(UnroutableError), epochs.snapshot():
        epochs.take()
    assert [migration.rows(shard, "users") for shard in SHARDS] == [[], [], []]


def test_a_chunk_copied_again_under_its_snapshot_is_passed_over(migration_of: Callable[..., Migration]) -> None:
    """A worker that died before the journal knew: the checkpoint on the shards is the truth, no row is doubled."""
    migration = migration_of(
        f"{USERS}\nlog: {{follows: owner}}\nkinds: {{reference: true}}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); CREATE TABLE log (owner int REFERENCES users);"
        "CREATE TABLE kinds (id int PRIMARY KEY); INSERT INTO kinds VALUES (1), (2);"
        "INSERT INTO users SELECT n, chr(97 + n % 3) FROM generate_series(1, 9) n; INSERT INTO log SELECT id"
        " FROM users",
    )
    epochs = migration.begin()
    with epochs.snapshot():
        chunks = epochs.open_chunks()
        for shard in ("north", "west"):
            epochs.take(chunks=chunks, only=shard)
        epochs.take(chunks=chunks)
        epochs.take(chunks=chunks)
    epochs.finish()
    assert migration.judge({"users": KIND, "log": OF_OWNER, "kinds": EVERYWHERE}) == 9 + 9 + 6

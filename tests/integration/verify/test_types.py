"""A change that a type's own `=` would not see is found in every type, and no unchanged value is reported.

One row a case: row n of the zoo differs between the source and its shard in column n alone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.mapping.shard_map import OnShard, Rule
from fixia_shardmig.verify import layouts, scans, verification
from fixia_shardmig.verify.queries import BUCKETS_MAX
from tests.integration.verify.conftest import World

TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'sad ');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
CREATE TYPE lossy AS (hidden int);
CREATE FUNCTION lossy_text(lossy) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'same'::text$$;
CREATE CAST (lossy AS text) WITH FUNCTION lossy_text(lossy);
CREATE TYPE moods AS RANGE (subtype = mood, multirange_type_name = manymoods);
CREATE DOMAIN prices AS price[];
CREATE TYPE deep AS (p pair, many pair[], paid price, at timestamptz);
CREATE DOMAIN key64 AS int8;
"""

# type, value on the source, value on the shard
PLAIN = (
    ("json", "'{\"a\":1}'", "'{\"a\": 1}'"),
    ("jsonb", "'{\"a\":1.10}'", "'{\"a\":1.1}'"),
    ("jsonb", "'1e400'", "'1e401'"),
    ("numeric", "1.10", "1.1"),
    ("numeric", "'NaN'", "'Infinity'"),
    ("price", "2.0", "2.00"),
    ("int[]", "'[0:1]={1,2}'", "'{1,2}'"),
    ("text[]", "ARRAY['NULL']", "ARRAY[NULL]"),
    ("text[]", "ARRAY['a,b']", "ARRAY['a','b']"),
    ("text", "''", "NULL"),
    ("text", "'a'", "'a '"),
    ("text", "E'\\u0001'", "'n'"),
    ("char(5)", "'ab'", "'aB'"),
    ("bpchar", "'ab'", "'ab '"),
    ("varchar(9)", "'é'", "E'e\\u0301'"),
    ("float8", "'0'", "'-0'"),
    ("float8", "'NaN'", "'infinity'"),
    ("float8", "0.1", "0.1::float8 + 0.3::float8 - 0.3::float8"),
    ("float4", "'-0'", "'0'"),
    ("timestamp", "'infinity'", "'-infinity'"),
    ("timestamp", "'0044-03-15 BC'", "'0044-03-15'"),
    ("timestamptz", "'294276-12-31 23:59:59.999999Z'", "'294276-12-31 23:59:59.999998Z'"),
    ("timestamptz", "'2024-01-01 00:00:00Z'", "'2024-01-01 01:00:00Z'"),
    ("date", "'2024-02-29'", "'2024-03-01'"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
    ("interval", "'1 mon'", "'30 days'"),
    ("interval", "'24:00:00'", "'1 day'"),
    ("bytea", "'\\x00ff'", "'\\x00fe'"),
    ("bytea", "''", "'\\x00'"),
    ("int4range", "'[1,3)'", "'[1,4)'"),
    ("numrange", "'[1.0,2)'", "'[1.00,2)'"),
    ("int4range", "'empty'", "NULL"),
    ("int4multirange", "'{[1,2),[5,6)}'", "'{[1,2)}'"),
    ("mood", "'sad'", "'sad '"),
    ("mood[]", "'{sad,ok}'", "'{ok,sad}'"),
    ("pair", "ROW(1,'x')", "ROW(1,NULL)"),
    ("pair", "ROW(1,'')", "ROW(1,NULL)"),
    ("pair", "ROW(1,NULL)", "ROW(2,NULL)"),
    ("pair", "ROW(NULL,NULL)", "NULL"),
    ("pair[]", "ARRAY[ROW(1,'x')::pair]", "ARRAY[ROW(1,'y')::pair]"),
    ("lossy", "ROW(1)", "ROW(2)"),
    ("money", "12.34", "12.35"),
    ("bit(3)", "B'101'", "B'100'"),
    ("varbit", "B'10'", "B'100'"),
    ("tsvector", "'a:1 b:2'", "'a:1 b:3'"),
    ("tsquery", "'a & b'", "'a | b'"),
    ("inet", "'10.0.0.1'", "'10.0.0.1/24'"),
    ("cidr", "'10.0.0.0/8'", "'10.0.0.0/9'"),
    ("macaddr", "'08:00:2b:01:02:03'", "'08:00:2b:01:02:04'"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'"),
    ("point", "'(1,2)'", "'(1,2.0000000001)'"),
    ("polygon", "'((0,0),(1,1))'", "'((0,0),(1,2))'"),
    ('"char"', "'a'", "'A'"),
    ("bool", "true", "false"),
    ("bool", "false", "NULL"),
    ("int2", "1", "2"),
    ("int8", "1", "4294967296"),
    ("oid", "1", "2"),
    ("name", "'a'", "'b'"),
    ("citext", "'A'", "'a'"),
    ("hstore", "'a=>NULL'", "'a=>\"NULL\"'"),
    ("text", "E'\\'\\\\,\\n\\t%s{}$1'", "E'\\'\\\\,\\n\\t%s{}$2'"),
)
# The rest of what the tables of PostgreSQL's own regression tests are made of, and what a hash of 64 bits in two halves
# or a value in place of NULL could miss.
REST = (
    ("int8", "0", "NULL"),
    ("int8", "-1", "-4294967297"),
    ("key64", "7", "30064771072"),
    ("int4", "NULL", "0"),
    ("uuid", "'00000000-0000-0000-0000-000000000000'", "NULL"),
    ("bytea", "''", "NULL"),
    ("bytea", "'\\x00'", "'\\x0000'"),
    ("timestamp", "'epoch'", "NULL"),
    ("timestamp", "'2000-01-01 00:00:00.000001'", "'2000-01-01 01:11:34.967296'"),
    ("timestamp", "'2024-01-01 00:00:00.000001'", "'2024-01-01 00:00:00.000002'"),
    ("timestamp", "'2000-01-01 00:00:00.000001'", "'1999-12-31 22:48:25.032705'"),
    ("timestamptz", "'2000-01-01 00:00:00.000001Z'", "'1999-12-31 22:48:25.032705Z'"),
    ("timestamp", "'4714-11-24 00:00:00 BC'", "'4714-11-24 00:00:00.000001 BC'"),
    ("timestamptz", "'4714-11-24 00:00:00Z BC'", "'-infinity'"),
    ("timestamptz", "'2000-01-01 00:00:00.000001Z'", "'2000-01-01 01:11:34.967296Z'"),
    ("timestamptz", "'epoch'", "NULL"),
    ("timestamptz", "'infinity'", "'-infinity'"),
    ("time", "'23:59:59.999999'", "'24:00'"),
    ("time(0)", "'12:00'", "'12:01'"),
    ("date", "'infinity'", "'-infinity'"),
    ("date", "'4713-01-01 BC'", "'4713-01-02 BC'"),
    ("interval year to month", "'1 year'", "'13 mons'"),
    ("numeric(210,10)", "1e199", "-1e199"),
    ("numeric", "5", "-5"),
    ("oid", "4294967295", "0"),
    ("xid", "'1'", "'2'"),
    ("xid8", "'1'", "'4294967297'"),
    ("cid", "'1'", "'2'"),
    ("tid", "'(1,2)'", "'(2,1)'"),
    ("oidvector", "'1 2'", "'2 1'"),
    ("int2vector", "'1 2'", "'2 1'"),
    ("regproc", "'now'", "'version'"),
    ("regprocedure", "'abs(int4)'", "'abs(int8)'"),
    ("regoper", "'||/'", "'|/'"),
    ("regclass", "'pg_class'", "'pg_type'"),
    ("regtype", "'int4'", "'int8'"),
    ("regrole", "'postgres'", "'pg_monitor'"),
    ("regnamespace", "'pg_catalog'", "'public'"),
    ("regconfig", "'simple'", "'english'"),
    ("regcollation", "'\"C\"'", "'\"POSIX\"'"),
    ("refcursor", "'a'", "'b'"),
    ("pg_lsn", "'0/1'", "'1/0'"),
    ("txid_snapshot", "'10:20:10,14'", "'10:20:10'"),
    ("pg_snapshot", "'10:20:10,14'", "'10:20:14'"),
    ("aclitem", "'postgres=r/postgres'", "'postgres=w/postgres'"),
    ("aclitem[]", "'{postgres=r/postgres}'", "'{=r/postgres}'"),
    ("jsonpath", "'$.a'", "'$.b'"),
    ("jsonb", "'[1, [], {}]'", "'[1, {}, []]'"),
    ("jsonb", "'null'", "NULL"),
    ("json[]", "ARRAY['{}'::json]", "ARRAY['{ }'::json]"),
    ("line", "'{1,2,3}'", "'{1,2,4}'"),
    ("lseg", "'[(0,0),(1,1)]'", "'[(1,1),(0,0)]'"),
    ("box", "'(1,1),(0,0)'", "'(1,2),(0,0)'"),
    ("path", "'[(0,0),(1,1)]'", "'((0,0),(1,1))'"),
    ("circle", "'<(0,0),1>'", "'<(0,0),2>'"),
    ("point", "'(0,0)'", "'(-0,0)'"),
    ("box[]", "'{(1,1),(0,0);(2,2),(0,0)}'", "'{(2,2),(0,0);(1,1),(0,0)}'"),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", "'08:00:2b:01:02:03:04:06'"),
    ("inet", "'::1'", "'::2'"),
    ("inet[]", "'{10.0.0.1}'", "'{10.0.0.2}'"),
    ("name[]", "'{a}'", "'{b}'"),
    ('"char"[]', "'{a,b}'", "'{b,a}'"),
    ("uuid[]", "'{}'", "NULL"),
    ("int[]", "'{{1,2},{3,4}}'", "'{1,2,3,4}'"),
    ("int[]", "'{}'", "NULL"),
    ("float8[]", "'{0}'", "'{-0}'"),
    ("bool[]", "'{t,NULL}'", "'{NULL,t}'"),
    ("bytea[]", "ARRAY['\\x00'::bytea]", "ARRAY['\\x01'::bytea]"),
    ("bit(40)", "1::bit(40)", "2::bit(40)"),
    ("varbit[]", "ARRAY[B'1']", "ARRAY[B'10']"),
    ("int8range", "'[1,)'", "'(,1]'"),
    ("daterange", "'[2024-01-01,2024-01-02)'", "'[2024-01-01,2024-01-03)'"),
    ("tsrange", "'[2024-01-01,2024-01-02)'", "'[2024-01-01,2024-01-02]'"),
    ("tstzrange", "'[2024-01-01Z,infinity)'", "'[2024-01-01Z,)'"),
    ("nummultirange", "'{[1.0,2)}'", "'{[1.00,2)}'"),
    ("tstzmultirange", "'{}'", "NULL"),
    ("int4range[]", "ARRAY['[1,2)'::int4range]", "ARRAY['empty'::int4range]"),
    ("moods", "'[sad,ok]'", "'[sad,ok)'"),
    ("manymoods", "'{[sad,sad]}'", "'{[ok,ok]}'"),
    ("prices", "'{1.0}'", "'{1.00}'"),
    ("deep", "ROW(ROW(1,'a'), ARRAY[ROW(2,'b')::pair], 1.0, 'epoch')", "ROW(ROW(1,'a'), NULL, 1.0, 'epoch')"),
    ("deep", "ROW(NULL, NULL, 1.0, 'epoch')", "ROW(NULL, NULL, 1.00, 'epoch')"),
    ("tsvector", "'a:1A'", "'a:1B'"),
    ("tsquery", "'a <-> b'", "'a <2> b'"),
)
CASES = PLAIN + REST
XML = (("xml", "'<a/>'", "'<a />'"),)
EXTENSIONS = ("citext", "hstore")
RULES: dict[str, Rule] = {"zoo": OnShard("clients")}
ANSWERED_DIFFERENTLY = "SELECT pg_postmaster_start_time()::text || random()::text"


@pytest.fixture(autouse=True)
def _a_bucket_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rows apart: a change that the digest does not see must not come to light by its neighbour's."""
    monkeypatch.setattr(layouts, "buckets_for", lambda *_: BUCKETS_MAX)
    monkeypatch.setattr(scans, "BUCKET_ROWS", 0)


def _fill(world: World, cases: tuple[tuple[str, str, str], ...]) -> None:
    """Give both sides one row a case with all columns at the source's value, but for the changed one on the shard."""
    columns = [f"c{number} {kind}" for number, (kind, _, _) in enumerate(cases)]
    own = {kind for kind, _, _ in cases} & set(EXTENSIONS)
    extensions = "".join(f"CREATE EXTENSION {name};" for name in sorted(own))
    world.everywhere(f"{extensions} {TYPES} CREATE TABLE zoo (id int PRIMARY KEY, {', '.join(columns)})")
    kept = [value for _, value, _ in cases]
    rows = [[*kept[:number], changed, *kept[number + 1 :]] for number, (_, _, changed) in enumerate(cases)]
    world.run("source", _inserts([kept] * len(cases)))
    world.run("clients", _inserts(rows))


def _inserts(rows: list[list[str]]) -> str:
    return ";".join(f"INSERT INTO zoo VALUES ({number}, {', '.join(row)})" for number, row in enumerate(rows))


def _check(world: World, cases: tuple[tuple[str, str, str], ...]) -> str:
    """Compare, expect exactly the changed column of each row, and return how it was hashed."""
    found = world.differences(RULES)
    expected = [("differing", "clients", "zoo", (str(number),), (f"c{number}",)) for number in range(len(cases))]
    assert sorted(expected) == found
    return world.compare(RULES).hash_form


def test_a_change_in_any_type_is_found_on_one_version(world_of: Callable[[int, int], World]) -> None:
    """Pitfalls 47, 49, 50: 1.10 and 1.1, 0 and -0, '1 mon' and '30 days', citext 'A' and 'a', NULL and ''."""
    world = world_of(15, 15)
    _fill(world, CASES + XML)
    assert "native" == _check(world, CASES + XML)


def test_a_change_in_any_type_is_found_from_16_to_17(world_of: Callable[[int, int], World]) -> None:
    """Pitfalls 47 and 55: all text forms and hashes are the same on 16 and 17 too (the 16 here has no extensions)."""
    world = world_of(16, 17)
    cases = tuple(case for case in CASES if case[0] not in EXTENSIONS)
    _fill(world, cases)
    assert "native" == _check(world, cases)


def test_a_change_in_any_type_is_found_by_every_form_from_15_to_18(
    world_of: Callable[[int, int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfalls 47 and 55: servers that do not hash alike are compared by text or sha256; here they are asked so."""
    world = world_of(15, 18)
    _fill(world, CASES)
    assert "native" == _check(world, CASES)
    monkeypatch.setattr(verification, "NATIVE_PROBE", ANSWERED_DIFFERENTLY)
    assert "hashtextextended" == _check(world, CASES)
    monkeypatch.setattr(verification, "PROBE", ANSWERED_DIFFERENTLY)
    assert "sha256" == _check(world, CASES)


def test_a_column_of_two_types_is_compared_by_its_text(world: World) -> None:
    """Pitfall 55: 1 as int4 and 1 as int8 have two hashes and one text; what differs in the text differs."""
    for side in ("source", "clients"):
        kind = "int4" if side == "source" else "int8"
        world.run(side, f"CREATE TABLE zoo (id {kind} PRIMARY KEY, v {kind}); INSERT INTO zoo VALUES (1, 2), (3, NULL)")
    assert [] == world.differences(RULES)
    world.run("clients", "UPDATE zoo SET v = 3 WHERE id = 1")
    assert [("differing", "clients", "zoo", ("1",), ("v",))] == world.differences(RULES)


def test_latin1_and_utf8_hold_the_same_text(
    world_of: Callable[[int, int], World], source_encoding: Callable[[World, str], World]
) -> None:
    """Pitfall 51: the bytes differ, the text does not; keys, values and NBSP are compared in UTF-8."""
    world = source_encoding(world_of(15, 18), "LATIN1")
    world.everywhere("CREATE TABLE zoo (id text PRIMARY KEY, v text, a text[])")
    values = "('é', 'ü\u00a0ß', ARRAY['ñ','\u00a0']), ('Z', NULL, NULL), ('z', 'ÿ', '{}')"
    for side in ("source", "clients"):
        world.run(side, f"INSERT INTO zoo VALUES {values}")
    result = world.compare(RULES)
    assert ("sha256", True) == (result.hash_form, result.equal)
    world.run("clients", "UPDATE zoo SET v = 'y' WHERE id = 'z'; DELETE FROM zoo WHERE id = 'é'")
    expected = [("differing", "clients", "zoo", ("z",), ("v",)), ("missing", "clients", "zoo", ("é",), ())]
    assert expected == world.differences(RULES)


def test_collations_that_sort_and_equate_differently_have_no_say(world_of: Callable[[int, int], World]) -> None:
    """Pitfall 51: a nondeterministic collation calls 'a' and 'A' equal; the hash is over the bytes all the same."""
    world = world_of(15, 15)
    folding = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    world.everywhere(folding + "CREATE TABLE zoo (id text COLLATE folding PRIMARY KEY, v text COLLATE folding)")
    world.run("source", "INSERT INTO zoo VALUES ('a', 'x'), ('b', 'y')")
    world.run("clients", "INSERT INTO zoo VALUES ('a', 'X'), ('b', 'y')")
    assert [("differing", "clients", "zoo", ("a",), ("v",))] == world.differences(RULES)


def test_defaults_of_role_and_database_do_not_change_a_value(world: World) -> None:
    """Pitfall 48: DateStyle, IntervalStyle, time zone, float digits and bytea form of the database are overridden."""
    world.everywhere("CREATE TABLE zoo (id timestamptz PRIMARY KEY, i interval, f float8, b bytea, m money)")
    for side in ("source", "clients"):
        world.run(
            side, "INSERT INTO zoo VALUES ('2024-03-02 01:00Z', '1 mon -2 days', 0.1::float8 + 0.2, '\\xff', 3.5)"
        )
    world.run(
        "clients",
        """DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET datestyle = ''German''', current_database());
        EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database());
        EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''sql_standard''', current_database());
        EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -5', current_database());
        EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database());
        EXECUTE format('ALTER DATABASE %I SET search_path = ''nowhere''', current_database());
        END $$""",
    )
    assert world.compare(RULES).equal

"""A change that a type's own `=` would not see is found in every type, and no unchanged value is reported.

One row a case: row n of the zoo differs between the source and its shard in column n alone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixia_shardmig.mapping.shard_map import OnShard, Rule
from fixia_shardmig.verify import layouts, verification
from fixia_shardmig.verify.queries import BUCKETS_MAX
from tests.integration.verify.conftest import World

TYPES = """
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'sad ');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
CREATE TYPE lossy AS (hidden int);
CREATE FUNCTION lossy_text(lossy) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'same'::text$$;
CREATE CAST (lossy AS text) WITH FUNCTION lossy_text(lossy);
"""

# type, value on the source, value on the shard
CASES = (
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
XML = (("xml", "'<a/>'", "'<a />'"),)
RULES: dict[str, Rule] = {"zoo": OnShard("clients")}


@pytest.fixture(autouse=True)
def _a_bucket_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rows apart: a change that the digest does not see must not come to light by its neighbour's."""
    monkeypatch.setattr(layouts, "buckets_for", lambda *_: BUCKETS_MAX)


def _fill(world: World, cases: tuple[tuple[str, str, str], ...]) -> None:
    """Give both sides one row a case with all columns at the source's value, but for the changed one on the shard."""
    columns = [f"c{number} {kind}" for number, (kind, _, _) in enumerate(cases)]
    world.everywhere(f"{TYPES} CREATE TABLE zoo (id int PRIMARY KEY, {', '.join(columns)})")
    for number in range(len(cases)):
        kept = [value for _, value, _ in cases]
        changed = [value if place != number else cases[number][2] for place, value in enumerate(kept)]
        world.run("source", f"INSERT INTO zoo VALUES ({number}, {', '.join(kept)})")
        world.run("clients", f"INSERT INTO zoo VALUES ({number}, {', '.join(changed)})")


def _check(world: World, cases: tuple[tuple[str, str, str], ...]) -> str:
    """Compare, expect exactly the changed column of each row, and return how it was hashed."""
    _fill(world, cases)
    found = world.differences(RULES)
    expected = [("differing", "clients", "zoo", (str(number),), (f"c{number}",)) for number in range(len(cases))]
    assert sorted(expected) == found
    return world.compare(RULES).hash_form


def test_a_change_in_any_type_is_found_on_one_version(world_of: Callable[[int, int], World]) -> None:
    """Pitfalls 47, 49, 50: 1.10 and 1.1, 0 and -0, '1 mon' and '30 days', citext 'A' and 'a', NULL and ''."""
    assert "hashtextextended" == _check(world_of(15, 15), CASES + XML)


def test_a_change_in_any_type_is_found_from_15_to_18(world_of: Callable[[int, int], World]) -> None:
    """Pitfalls 47 and 55: all text forms are the same on 15 and 18, and so is the hash: the servers were asked."""
    assert "hashtextextended" == _check(world_of(15, 18), CASES)


def test_a_change_in_any_type_is_found_by_the_stable_hash(
    world_of: Callable[[int, int], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 55: servers that do not hash alike are compared by sha256; here they are asked something that differs."""
    monkeypatch.setattr(verification, "PROBE", "SELECT pg_postmaster_start_time()::text || random()::text")
    assert "sha256" == _check(world_of(15, 18), CASES)


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

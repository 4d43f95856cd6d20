"""Tables without a key, matched by whole rows, and TRUNCATE."""

from __future__ import annotations

from collections.abc import Callable

from tests.fixtures.fix_migrations import EVERYWHERE, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"

WITH_XML_AND_ICU = 15
"""Debian's build has both, the newest wheel has neither."""

TYPES_DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text);
INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (x int, y text);
CREATE TABLE logs (owner int REFERENCES users, j json, x xml, p point, b bool, c char(5), f float8, n numeric, m mood,
    t timestamptz, i inet, y bytea, a text[], r int4range, w pair, big text, v varchar(9), z bit(3), d date, mo money);
ALTER TABLE logs REPLICA IDENTITY FULL;
ALTER TABLE logs ALTER big SET STORAGE EXTERNAL;
INSERT INTO logs SELECT 1 + n % 3, '{"a" :  1}', '<a/>', '(1,2)', n % 2 = 0, 'c', 0.1 + n % 2, 1.10, 'ok',
    '2020-01-01 00:00:00.123456+05', '10.0.0.1', '\\x00ff', '{a,NULL,"b,c"}', '[1,5)', '(1,"q r")', repeat('x', 4000),
    'v', '101', '-infinity', 12.5 FROM generate_series(1, 30) n;
INSERT INTO logs (owner) SELECT 1 + n % 3 FROM generate_series(1, 9) n;
"""
TYPES_TABLES = "users: {split_by: kind, homes: {a: north, b: south, c: west}}\nlogs: {follows: owner}"
TYPES_HOMES = {"users": KIND, "logs": f"(SELECT {KIND} FROM users WHERE id = t.owner)"}
ONE = "ctid = (SELECT min(ctid) FROM logs WHERE owner = {} AND j IS NOT NULL)"


def test_one_of_several_equal_rows_changes(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 24: exactly one of n equal rows is matched, by every type's text: json, xml and point have no `=`."""
    migration = migration_of(TYPES_TABLES, TYPES_DDL, major=WITH_XML_AND_ICU).copy()
    assert migration.judge(TYPES_HOMES) == 3 + 39
    migration.run(f"DELETE FROM logs WHERE {ONE.format(1)}", f"UPDATE logs SET n = 1.1 WHERE {ONE.format(2)}")
    migration.run(f"UPDATE logs SET j = '[1]', big = big || 'y' WHERE {ONE.format(3)}")
    migration.run("INSERT INTO logs SELECT * FROM logs WHERE owner = 1")
    migration.run("DELETE FROM logs WHERE ctid = (SELECT min(ctid) FROM logs WHERE owner = 2 AND j IS NULL)")
    migration.run("UPDATE logs SET m = 'sad', i = '::1/64', d = 'infinity' WHERE owner = 2 AND NOT b")
    assert migration.tail().conflicts == 0
    migration.judge(TYPES_HOMES)


def test_rows_without_a_key_move_with_their_parent(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 24: equal rows follow their user to another shard, all of them, and change hands one by one."""
    migration = migration_of(TYPES_TABLES, TYPES_DDL, major=WITH_XML_AND_ICU).copy()
    migration.run("UPDATE users SET kind = 'b' WHERE id = 1", f"UPDATE logs SET owner = 3 WHERE {ONE.format(2)}")
    migration.tail()
    migration.judge(TYPES_HOMES)
    migration.run(
        "UPDATE users SET kind = CASE kind WHEN 'c' THEN 'a' ELSE 'c' END", "DELETE FROM logs WHERE owner = 2"
    )
    assert migration.tail().conflicts == 0
    migration.judge(TYPES_HOMES)


def test_followers_of_a_table_without_a_key_move_with_it(migration_of: Callable[..., Migration]) -> None:
    """A unique constraint is enough to be followed; the row itself is matched as a whole."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south, c: west}}\nitems: {follows: owner}",
        "CREATE TABLE users (id int UNIQUE, kind text); ALTER TABLE users REPLICA IDENTITY FULL;"
        "CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE);"
        "INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c'), (NULL, 'a'), (NULL, 'a');"
        "INSERT INTO items SELECT n, 1 + n % 3 FROM generate_series(1, 9) n",
    ).copy()
    homes = {"users": KIND, "items": f"(SELECT {KIND} FROM users WHERE id = t.owner)"}
    for statements in (
        ["UPDATE users SET kind = 'b' WHERE id = 1"],
        ["UPDATE users SET id = id + 10"],
        ["UPDATE users SET id = 1, kind = 'c' WHERE id = 11", "INSERT INTO items VALUES (20, 1)"],
        ["DELETE FROM users WHERE id = 12", "INSERT INTO users VALUES (12, 'a')", "INSERT INTO items VALUES (21, 12)"],
        ["DELETE FROM users WHERE ctid = (SELECT min(ctid) FROM users WHERE id IS NULL)"],
    ):
        migration.run(*statements)
        assert migration.tail().conflicts == 0
        migration.judge(homes)


def test_equal_under_a_collation_is_not_equal(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 24: under a collation for which 'A' is 'a' the row with the same bytes is the one that goes."""
    migration = migration_of(
        "words: {shard: north}",
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "CREATE TABLE words (word text COLLATE ci); ALTER TABLE words REPLICA IDENTITY FULL;"
        "INSERT INTO words VALUES ('Word'), ('word'), ('WORD')",
        major=WITH_XML_AND_ICU,
    ).copy()
    migration.run("DELETE FROM words WHERE word COLLATE \"C\" = 'WORD'")
    migration.run("UPDATE words SET word = 'other' WHERE word COLLATE \"C\" = 'word'")
    assert migration.tail().conflicts == 0
    assert migration.rows("north", "words") == [("Word",), ("other",)]


TRUNCATE_DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text);
CREATE TABLE items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int REFERENCES users, what text);
CREATE TABLE notes (id serial PRIMARY KEY, item int REFERENCES items, what text);
CREATE TABLE categories (id int PRIMARY KEY);
CREATE TABLE log (what text);
ALTER TABLE log REPLICA IDENTITY FULL;
INSERT INTO users VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO items (owner) SELECT 1 + n % 3 FROM generate_series(1, 9) n;
INSERT INTO notes (item) SELECT n FROM generate_series(1, 9) n;
INSERT INTO categories SELECT generate_series(1, 5);
INSERT INTO log SELECT 'x' FROM generate_series(1, 5);
"""
TRUNCATE_TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: owner}
notes: {follows: item}
categories: {reference: true}
log: {shard: south}
"""
OF_ITEM = f"(SELECT {KIND} FROM users u JOIN items i ON i.owner = u.id WHERE i.id = t.item)"
TRUNCATE_HOMES = {
    "users": KIND,
    "items": f"(SELECT {KIND} FROM users WHERE id = t.owner)",
    "notes": OF_ITEM,
    "categories": EVERYWHERE,
    "log": "'south'",
}


def test_truncate_empties_tables_on_every_shard(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 25: one table, several at once, with CASCADE over a kept foreign key, between other changes."""
    migration = migration_of(TRUNCATE_TABLES, TRUNCATE_DDL).copy()
    for statements in (
        ["TRUNCATE notes", "INSERT INTO notes (item, what) VALUES (1, 'after')"],
        ["INSERT INTO log VALUES ('before')", "TRUNCATE log, categories", "INSERT INTO categories VALUES (1)"],
        ["INSERT INTO items (owner) VALUES (1)", "TRUNCATE items CASCADE", "INSERT INTO items (owner) VALUES (2)"],
        ["INSERT INTO notes (item) SELECT id FROM items", "TRUNCATE users CASCADE"],
        ["INSERT INTO users VALUES (1, 'c'), (5, 'a')", "INSERT INTO items (owner) VALUES (1), (5)"],
    ):
        migration.run(*statements)
        assert migration.tail().conflicts == 0
        migration.judge(TRUNCATE_HOMES)


def test_truncate_in_the_middle_of_a_batch_finds_keys_anew(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 25: keys from before the TRUNCATE come back with another home; one batch, then one transaction."""
    migration = migration_of(TRUNCATE_TABLES, TRUNCATE_DDL).copy()
    again = ["INSERT INTO users VALUES (1, 'b'), (2, 'c')", "INSERT INTO items (owner) VALUES (1), (2)"]
    migration.run("UPDATE users SET kind = 'c' WHERE id = 1")
    migration.run("TRUNCATE users CASCADE")
    migration.run(*again)
    migration.tail()
    migration.judge(TRUNCATE_HOMES)
    migration.run("UPDATE users SET kind = 'a' WHERE id = 1", "TRUNCATE users CASCADE", *again)
    migration.tail()
    migration.judge(TRUNCATE_HOMES)


def test_restart_identity_restarts_the_shards_sequences(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 25: RESTART IDENTITY comes with the message; without it sequences stay."""
    migration = migration_of(TRUNCATE_TABLES, TRUNCATE_DDL).copy()
    for shard in ("north", "south", "west"):
        migration.on(shard, "SELECT setval('notes_id_seq', 100)")
    migration.run("TRUNCATE notes")
    migration.tail()
    assert migration.on("north", "SELECT last_value FROM notes_id_seq") == [(100,)]
    migration.run("TRUNCATE notes RESTART IDENTITY")
    migration.tail()
    assert migration.on("west", "SELECT last_value, is_called FROM notes_id_seq") == [(1, False)]

"""What single changes do: large columns, keys, swaps, triggers, savepoints, large transactions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.fix_migrations import EVERYWHERE, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: owner}
"""
HOMES = {"users": KIND, "items": f"(SELECT {KIND} FROM users WHERE id = t.owner)"}
DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text, email text UNIQUE, big text, also_big text);
ALTER TABLE users ALTER big SET STORAGE EXTERNAL, ALTER also_big SET STORAGE EXTERNAL;
CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE,
    position int, UNIQUE (owner, position) DEFERRABLE);
INSERT INTO users VALUES (1, 'a', 'ann', repeat('1', 9000), repeat('x', 9000)),
    (2, 'b', 'bob', repeat('2', 9000), NULL), (3, 'c', 'cat', NULL, NULL), (4, 'a', 'dan', 'small', '');
INSERT INTO items SELECT n, 1 + n % 4, n FROM generate_series(1, 40) n;
"""


@pytest.fixture
def shop(migration_of: Callable[..., Migration]) -> Migration:
    """Give users with large columns and items, every index and constraint built."""
    return migration_of(TABLES, DDL).copy()


def test_unchanged_toast_stays_as_it_is(shop: Migration) -> None:
    """Pitfall 21: large columns that an UPDATE left alone are left out of SET, one or both, set to NULL or back."""
    shop.run("UPDATE users SET email = email || '!'")
    shop.run("UPDATE users SET big = 'now small' WHERE id = 1", "UPDATE users SET also_big = big WHERE id = 2")
    shop.run("UPDATE users SET big = NULL WHERE id = 2", "UPDATE users SET big = repeat('new', 3000) WHERE id > 2")
    shop.run("UPDATE users SET id = id + 100", "UPDATE users SET email = 'last' WHERE id = 103")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_an_update_of_nothing_but_unchanged_toast_is_nothing(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 21: an UPDATE that brings no value but the key's, or none at all, applies and counts no conflict."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\nblobs: {follows: owner}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a');"
        "CREATE TABLE blobs (id text PRIMARY KEY, owner int REFERENCES users, body text);"
        "ALTER TABLE blobs ALTER body SET STORAGE EXTERNAL; INSERT INTO blobs VALUES ('b', 1, repeat('b', 9000))",
    ).copy()
    migration.run("UPDATE blobs SET owner = owner", "UPDATE blobs SET body = body", "UPDATE blobs SET id = id")
    assert migration.tail().conflicts == 0
    assert migration.rows("north", "blobs", "id, owner, length(body)") == [("b", 1, 9000)]


def test_of_an_old_tuple_only_the_key_is_taken(shop: Migration) -> None:
    """Pitfall 22: a DELETE under DEFAULT identity shows every other column as NULL, which is no value."""
    shop.run("DELETE FROM items WHERE id % 3 = 0", "UPDATE items SET id = id + 1000 WHERE id % 3 = 1")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_key_change_cascades_to_children(shop: Migration) -> None:
    """Pitfall 23: old key out, new key in; ON UPDATE CASCADE rewrites the children of every user."""
    shop.run("UPDATE users SET id = id + 10")
    shop.run("UPDATE users SET id = id + 1 WHERE id = 14", "UPDATE users SET kind = 'b' WHERE id = 15")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_key_change_and_a_move_in_one_update(shop: Migration) -> None:
    """Pitfall 23: the row is found by its old key, moved under its new one, and brings its large columns."""
    shop.run("UPDATE users SET id = 500, kind = 'b' WHERE id = 1", "UPDATE users SET id = 1, kind = 'c' WHERE id = 2")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_key_change_by_cascade_over_two_columns_of_one_row(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 23: two references to one user are rewritten one after the other; between them one points nowhere."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\npairs: {follows: [first, second]}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); INSERT INTO users VALUES (1, 'a'), (2, 'b');"
        "CREATE TABLE pairs (first int REFERENCES users ON UPDATE CASCADE, second int REFERENCES users ON"
        " UPDATE CASCADE,"
        " n int, PRIMARY KEY (first, second)); INSERT INTO pairs VALUES (1, 1, 1), (1, 2, 2), (2, 1, 3), (2, 2, 4)",
    ).copy()
    migration.run("UPDATE users SET id = id + 10")
    migration.run("UPDATE users SET kind = 'b' WHERE id = 11", "UPDATE users SET id = 1 WHERE id = 11")
    assert migration.tail().conflicts == 0
    migration.judge({"users": KIND, "pairs": f"(SELECT {KIND} FROM users WHERE id = t.first)"})


def test_unique_values_are_swapped_within_a_transaction(shop: Migration) -> None:
    """Pitfall 27: e-mails go around in a circle over a third value, between users of one and of several shards."""
    shop.run(
        "UPDATE users SET email = 'tmp' WHERE id = 1",
        "UPDATE users SET email = 'ann' WHERE id = 4",
        "UPDATE users SET email = 'dan' WHERE id = 1",
        "UPDATE users SET email = 'tmp' WHERE id = 2",
        "UPDATE users SET email = 'bob' WHERE id = 3",
        "UPDATE users SET email = 'cat', kind = 'c' WHERE id = 2",
    )
    shop.tail()
    shop.judge(HOMES)


def test_positions_move_up_by_one(shop: Migration) -> None:
    """Pitfall 27: UPDATE … SET position = position + 1 passes through duplicates under a deferrable constraint."""
    shop.run("UPDATE items SET position = position + 4")
    shop.run("UPDATE items SET position = 100 - position")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_key_comes_goes_and_comes_again(shop: Migration) -> None:
    """Pitfall 27: insert, delete, insert of one key in one transaction and in one batch, on changing shards."""
    shop.run(
        "INSERT INTO users VALUES (9, 'a', 'x')",
        "DELETE FROM users WHERE id = 9",
        "INSERT INTO users VALUES (9, 'b', 'x', repeat('9', 5000))",
        "INSERT INTO items VALUES (900, 9, 1)",
    )
    shop.run("DELETE FROM users WHERE id = 9")
    shop.run("INSERT INTO users VALUES (9, 'c', 'x')", "INSERT INTO items VALUES (900, 9, 1)")
    assert shop.tail().conflicts == 0
    shop.judge(HOMES)


def test_a_deferrable_key_passes_through_duplicates(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 27: SET id = id + 1 under a deferrable key; between two rows' changes two rows have one key."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}",
        "CREATE TABLE users (id int PRIMARY KEY DEFERRABLE, kind text, note text);"
        "ALTER TABLE users REPLICA IDENTITY FULL;"
        "INSERT INTO users SELECT n, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END, repeat('n', n) FROM"
        " generate_series(1, 9) n",
    ).copy()
    migration.run("UPDATE users SET id = id + 1")
    migration.run("UPDATE users SET id = id + 2, kind = CASE kind WHEN 'a' THEN 'b' ELSE 'a' END WHERE id > 3")
    migration.run("INSERT INTO users VALUES (1, 'a', 'new')", "DELETE FROM users WHERE id = 8")
    migration.tail()
    migration.judge({"users": KIND})


def test_what_triggers_and_actions_did_is_not_done_twice(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 26: effects arrive as rows; on the shards neither triggers nor foreign keys act on top of them."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south, c: west}}\naudit: {follows: who}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text, changes int NOT NULL DEFAULT 0);"
        "CREATE TABLE audit (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, who int REFERENCES users"
        " ON DELETE SET"
        " NULL, what text); INSERT INTO users VALUES (1, 'a'), (2, 'b');"
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.changes := old.changes + 1;"
        " INSERT INTO public.audit (who, what) VALUES (new.id, tg_op); RETURN new; END $$;"
        "CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION count_it()",
    ).copy()
    migration.run("UPDATE users SET kind = 'b'", "UPDATE users SET kind = 'c' WHERE id = 1")
    migration.tail()
    homes = {"users": KIND, "audit": f"(SELECT {KIND} FROM users WHERE id = t.who)"}
    assert migration.judge(homes) == 2 + 3


def test_only_what_committed_is_applied_however_many_savepoints(shop: Migration) -> None:
    """Pitfall 28: more than 64 subtransactions, a third of them rolled back, one inside another."""
    with shop.source.transaction():
        for n in range(150):
            shop.source.execute("SAVEPOINT outer_one")
            shop.source.execute("INSERT INTO users VALUES (%s, %s, %s)", (1000 + n, "abc"[n % 3], f"sub {n}"))
            shop.source.execute("SAVEPOINT inner_one")
            shop.source.execute("INSERT INTO items VALUES (%s, %s, 1)", (1000 + n, 1000 + n))
            if n % 5 == 0:
                shop.source.execute("ROLLBACK TO inner_one")
            if n % 3 == 0:
                shop.source.execute("ROLLBACK TO outer_one")
            shop.source.execute("RELEASE outer_one")
    shop.tail()
    assert shop.judge(HOMES) == 4 + 40 + 100 + 80


def test_a_rolled_back_transaction_leaves_no_trace(shop: Migration) -> None:
    """Pitfall 28: nothing is visible before its COMMIT, and a transaction without one never is."""
    other = shop.another_session()
    other.execute("BEGIN")
    other.execute("UPDATE users SET kind = 'b' WHERE id < 3")
    other.execute("DELETE FROM items WHERE owner = 1")
    shop.run("UPDATE items SET position = position + 1000 WHERE owner > 2")
    other.execute("ROLLBACK")
    shop.tail()
    shop.judge(HOMES)


def test_a_large_transaction_is_applied_whole(shop: Migration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 28: more changes than fit in a window or in memory; a move in its middle; it spills, and ends right."""
    monkeypatch.setattr("fixia_shardmig.postgres.transactions.MEMORY_BYTES_MAX", 10_000)
    for way in ("", "PLAIN_"):
        monkeypatch.setattr(f"fixia_shardmig.tail.router.{way}WINDOW_CHANGES", 700)
        monkeypatch.setattr(f"fixia_shardmig.tail.router.{way}FLUSH_OPERATIONS", 900)
    shop.run(
        "INSERT INTO users SELECT n, 'a', 'user ' || n FROM generate_series(100, 1100) n",
        "INSERT INTO items SELECT n, 100 + n % 1000, n FROM generate_series(1000, 4000) n",
        "UPDATE users SET kind = 'b' WHERE id % 2 = 0",
        "DELETE FROM items WHERE id % 10 = 0",
        "UPDATE users SET kind = 'c', big = repeat('c', 3000) WHERE id % 50 = 0",
    )
    result = shop.tail()
    assert result.conflicts == 0
    shop.judge(HOMES)


def test_reference_rows_change_on_every_shard(migration_of: Callable[..., Migration]) -> None:
    """A reference table's rows are inserted, changed and deleted everywhere."""
    migration = migration_of(
        "users: {split_by: kind, homes: {a: north, b: south}}\ncategories: {reference: true}\nlog: {shard: west}",
        "CREATE TABLE users (id int PRIMARY KEY, kind text); CREATE TABLE log (id int PRIMARY KEY, t text);"
        "CREATE TABLE categories (id int PRIMARY KEY, name text, parent int REFERENCES categories);"
        "INSERT INTO categories VALUES (1, 'x', NULL), (2, 'y', 1); INSERT INTO log VALUES (1, 'l')",
    ).copy()
    migration.run("INSERT INTO categories VALUES (3, 'z', 2)", "UPDATE categories SET id = 9 WHERE id = 3")
    migration.run("UPDATE categories SET name = 'all'", "DELETE FROM categories WHERE id = 9", "UPDATE log SET id = 2")
    migration.run("INSERT INTO log VALUES (1, 'm')", "DELETE FROM log WHERE id = 2")
    assert migration.tail().conflicts == 0
    assert migration.judge({"users": KIND, "categories": EVERYWHERE, "log": "'west'"}) == 2 * 3 + 1

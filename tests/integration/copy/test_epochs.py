"""A copy that goes on under a later snapshot: what moved, came, went and changed between makes no difference.

Each test stops the copy at a named place, changes the source, copies the rest under the next snapshot, and lets the
tail catch up; then every row has to be where the source of now says.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.fix_migrations import EVERYWHERE, Epochs, Migration

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: owner}
parts: {follows: item}
categories: {reference: true}
settings: {shard: south}
log: {follows: owner}
"""
DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text, pad text, big text);
CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE, pad text,
    big text);
CREATE TABLE parts (id int PRIMARY KEY, item int REFERENCES items ON DELETE CASCADE ON UPDATE CASCADE, pad text);
CREATE TABLE categories (id int PRIMARY KEY, name text, pad text, big text);
CREATE TABLE settings (id int PRIMARY KEY, name text, pad text, big text);
CREATE TABLE log (owner int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE, n int);
ALTER TABLE log REPLICA IDENTITY FULL;
ALTER TABLE users ALTER big SET STORAGE EXTERNAL; ALTER TABLE items ALTER big SET STORAGE EXTERNAL;
ALTER TABLE categories ALTER big SET STORAGE EXTERNAL; ALTER TABLE settings ALTER big SET STORAGE EXTERNAL;
INSERT INTO users SELECT n, chr(97 + n % 3), repeat('p', 900), repeat(n::text, 3000) FROM generate_series(1, 40) n;
INSERT INTO items SELECT n, 1 + n % 40, repeat('p', 900), repeat(n::text, 3000) FROM generate_series(1, 80) n;
INSERT INTO parts SELECT n, 1 + n % 80, repeat('p', 900) FROM generate_series(1, 80) n;
INSERT INTO categories SELECT n, 'c' || n, repeat('p', 900), repeat(n::text, 3000) FROM generate_series(1, 30) n;
INSERT INTO settings SELECT n, 's' || n, repeat('p', 900), repeat(n::text, 3000) FROM generate_series(1, 30) n;
INSERT INTO log SELECT 1 + n % 40, n % 7 FROM generate_series(1, 300) n;
VACUUM ANALYZE;
"""
HOMES = {
    "users": KIND,
    "items": f"(SELECT {KIND} FROM users WHERE id = t.owner)",
    "parts": f"(SELECT {KIND} FROM users u JOIN items i ON i.owner = u.id WHERE i.id = t.item)",
    "categories": EVERYWHERE,
    "settings": "'south'",
    "log": f"(SELECT {KIND} FROM users WHERE id = t.owner)",
}


@pytest.fixture
def copying(migration_of: Callable[..., Migration]) -> Epochs:
    """Give a copy that has begun, of tables of several chunks each."""
    migration = migration_of(TABLES, "")
    for statement in DDL.split(";\n"):
        if statement.strip():
            migration.source.execute(statement.encode())
    return migration.begin(chunk_bytes=8192)


def go_on(copying: Epochs, *changes: str) -> None:
    """Copy every second chunk under the first snapshot, change the source, copy the rest, catch up, judge."""
    with copying.snapshot():
        copying.take(chunks=copying.open_chunks()[::2])
    for change in changes:
        copying.migration.run(change)
    with copying.snapshot():
        copying.take()
    copying.finish()
    copying.migration.tail()
    copying.migration.judge(HOMES)


def test_nothing_changed_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs: without a change the halves make a whole, tables without a key included."""
    go_on(copying)
    assert "consistent" in copying.migration.events()


def test_rows_change_their_blocks_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs: a row that moved into a block already copied, or out of one, is met never or twice."""
    go_on(
        copying,
        "UPDATE users SET pad = repeat('q', 1000)",
        "UPDATE items SET pad = repeat('q', 1000) WHERE id % 3 > 0",
        "UPDATE parts SET pad = repeat('q', 1000)",
        "UPDATE categories SET pad = repeat('q', 1000)",
        "UPDATE settings SET pad = repeat('q', 1000)",
    )


def test_rows_go_and_come_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs: deleted, inserted, and deleted and inserted again with the same key, elsewhere."""
    go_on(
        copying,
        "DELETE FROM users WHERE id % 4 = 0",
        "DELETE FROM categories WHERE id % 2 = 0",
        "DELETE FROM log WHERE n = 3",
        "INSERT INTO users SELECT n, chr(97 + (n + 1) % 3), repeat('r', 900), repeat('r', 3000)"
        " FROM generate_series(4, 40, 4) n",
        "INSERT INTO items SELECT n + 1000, n, repeat('r', 900), repeat('r', 3000) FROM generate_series(1, 40) n",
        "INSERT INTO categories SELECT n, 'new', '', repeat('r', 3000) FROM generate_series(2, 60, 4) n",
        "INSERT INTO log SELECT 1 + n % 40, 3 FROM generate_series(1, 50) n",
        "DELETE FROM settings WHERE id > 10",
    )


def test_types_change_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs: owners and what follows them were copied under different types; all come home in the end."""
    go_on(
        copying,
        "UPDATE users SET kind = chr(97 + (id + 1) % 3) WHERE id % 2 = 0",
        "UPDATE users SET kind = chr(97 + (id + 2) % 3) WHERE id % 3 = 0",
        "UPDATE users SET kind = chr(97 + id % 3) WHERE id % 6 = 0",
    )


def test_rows_are_handed_on_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs: children change their parents, some of which are gone before the second snapshot."""
    go_on(
        copying,
        "UPDATE items SET owner = 1 + (owner + 1) % 40 WHERE id % 2 = 0",
        "UPDATE parts SET item = 1 + (item + 1) % 80",
        "UPDATE log SET owner = 1 + (owner + 1) % 40 WHERE n < 4",
        "INSERT INTO users VALUES (500, 'a')",
        "UPDATE items SET owner = 500 WHERE id < 20",
        "INSERT INTO log VALUES (500, 1)",
        "DELETE FROM users WHERE id = 500",
    )


def test_keys_change_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs, pitfall 23: keys go around, so that a later snapshot has other rows under old keys."""
    go_on(copying, *KEY_CHANGES)


KEY_CHANGES = (
    "UPDATE users SET id = id + 100 WHERE id % 2 = 0",
    "UPDATE users SET id = id + 1 WHERE id % 2 = 1 AND id < 40",
    "UPDATE users SET id = id - 101 WHERE id > 120",
    "UPDATE categories SET id = id + 50",
    "UPDATE categories SET id = id - 49 WHERE id % 2 = 0",
    "UPDATE settings SET id = id + 50, big = 'new' WHERE id % 2 = 0",
    "UPDATE settings SET id = id + 1 WHERE id % 2 = 1 AND id < 30",
    "INSERT INTO settings VALUES (1, 'again', '', repeat('again', 1000))",
)


def test_tables_are_emptied_between_two_snapshots(copying: Epochs) -> None:
    """Snapshot epochs, pitfall 25: TRUNCATE of keyed and keyless tables, and what came after it."""
    go_on(
        copying,
        "TRUNCATE log, categories",
        "INSERT INTO log VALUES (1, 1), (2, 2)",
        "INSERT INTO categories VALUES (1, 'new'), (100, 'new')",
        "UPDATE log SET n = 9 WHERE owner = 1",
    )


def test_a_chunk_that_one_shard_committed_is_not_doubled(copying: Epochs) -> None:
    """A kill between two shards' commits: the chunk is copied again, to those that have it and those that have not."""
    with copying.snapshot():
        chunks = copying.open_chunks()
        copying.take(chunks=chunks[::3])
        copying.take(chunks=chunks[1::3], only="north")
        copying.take(chunks=chunks[2::6])
    for change in ("UPDATE users SET kind = 'a' WHERE kind = 'b'", "UPDATE users SET kind = 'b' WHERE kind = 'c'"):
        copying.migration.run(change)
    copying.migration.run("DELETE FROM categories WHERE id < 9", "UPDATE categories SET name = 'x' WHERE id > 20")
    copying.migration.run("DELETE FROM items WHERE id < 9", "DELETE FROM log WHERE n = 1")
    with copying.snapshot():
        copying.take()
    copying.finish()
    copying.migration.tail()
    copying.migration.judge(HOMES)


def test_three_snapshots(copying: Epochs) -> None:
    """A copy may be interrupted more than once."""
    with copying.snapshot():
        copying.take("users", chunks=copying.open_chunks()[::2])
    copying.migration.run("UPDATE users SET kind = chr(97 + (id + 1) % 3), pad = repeat('q', 999) WHERE id % 2 = 0")
    with copying.snapshot():
        copying.take(chunks=copying.open_chunks()[::2])
    copying.migration.run("UPDATE users SET kind = 'c', pad = repeat('q', 1999) WHERE id % 5 = 0")
    copying.migration.run("UPDATE items SET owner = 5", "DELETE FROM users WHERE id > 35")
    with copying.snapshot():
        copying.take()
    copying.finish()
    copying.migration.run("UPDATE users SET kind = 'a' WHERE id = 5")
    copying.migration.tail()
    copying.migration.judge(HOMES)


def test_the_tail_goes_on_loosely_over_a_stop(copying: Epochs) -> None:
    """Before the last snapshot's LSN is passed the shards are no state of the source; a stop there changes nothing."""
    migration = copying.migration
    with copying.snapshot():
        copying.take(chunks=copying.open_chunks()[::2])
    migration.run("UPDATE users SET kind = chr(97 + (id + 1) % 3)")
    first = migration.here()
    migration.run("UPDATE users SET kind = chr(97 + (id + 2) % 3) WHERE id % 2 = 0")
    migration.run("DELETE FROM items WHERE id % 9 = 0")
    second = migration.here()
    migration.run("UPDATE users SET pad = repeat('z', 2000)")
    with copying.snapshot():
        copying.take()
    copying.finish()
    migration.tail_until(first)
    migration.tail_until(second)
    assert "consistent" not in migration.events()
    migration.tail()
    migration.judge(HOMES)


def test_a_keyless_table_is_replayed_past_its_own_snapshot_only(copying: Epochs) -> None:
    """Pitfall 44: a transaction that committed before the snapshot is in it; one that was open then is not."""
    migration = copying.migration
    with copying.snapshot():
        copying.take("users")
    open_one = migration.another_session()
    open_one.execute("BEGIN")
    open_one.execute("INSERT INTO log SELECT 1, 100 FROM generate_series(1, 5)")
    migration.run("INSERT INTO log SELECT 2, 200 FROM generate_series(1, 5)")
    migration.run("DELETE FROM log WHERE owner = 3")
    with copying.snapshot():
        open_one.execute("DELETE FROM log WHERE owner = 4")
        open_one.execute("COMMIT")
        migration.run("INSERT INTO log SELECT 2, 300 FROM generate_series(1, 5)")
        copying.take()
    copying.finish()
    migration.tail()
    migration.judge(HOMES)

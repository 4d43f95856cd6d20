"""The tail's memory is bounded, whatever comes: it is run in a process of its own with its limits lowered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.fix_memory import peak_bytes
from tests.fixtures.fix_migrations import Migration

MB = 1024 * 1024
GROWTH_MAX = 14 * MB
"""Over a tail without work. Each test's work takes several times as much where it is held at once."""

KIND = "CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'west' END"
OF_OWNER = f"(SELECT {KIND} FROM users WHERE id = t.owner)"
OF_ITEM = f"(SELECT {KIND} FROM users u JOIN items i ON i.owner = u.id WHERE i.id = t.item)"
HOMES = {"users": KIND, "items": OF_OWNER, "notes": OF_ITEM}
TABLES = """
users: {split_by: kind, homes: {a: north, b: south, c: west}}
items: {follows: owner}
notes: {follows: item}
"""
DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text);
CREATE TABLE items (id int PRIMARY KEY, owner int REFERENCES users, body text);
CREATE TABLE notes (id int PRIMARY KEY, item int REFERENCES items, body text);
CREATE INDEX ON items (owner);
CREATE INDEX ON notes (item);
"""


@pytest.fixture
def shop(migration_of: Callable[..., Migration]) -> Migration:
    """Give a few users, copied, and every index built."""
    migration = migration_of(TABLES, DDL + "INSERT INTO users SELECT n, chr(97 + n % 3) FROM generate_series(1, 9) n")
    migration.copy().tail()
    return migration


def growth(migration: Migration, *transactions: str) -> int:
    """Return how much more a tail takes for these transactions than for none; holds the shards against the source."""
    idle = peak_bytes(migration.mapping, migration.here())
    for transaction in transactions:
        migration.run(transaction)
    grown = peak_bytes(migration.mapping, migration.here()) - idle
    migration.judge(HOMES)
    return grown


def test_a_large_transaction_does_not_fit_into_memory_and_need_not(shop: Migration) -> None:
    """Pitfall 28: 40 MB of wide rows in one transaction, changed and partly deleted in it."""
    grown = growth(
        shop,
        "INSERT INTO items SELECT n, 1 + n % 9, repeat(md5(n::text), 40) FROM generate_series(1, 30000) n;"
        "UPDATE items SET owner = 1 + (owner + 2) % 9 WHERE id % 7 = 0; DELETE FROM items WHERE id % 3 = 0",
    )
    assert grown < GROWTH_MAX


def test_many_small_transactions_take_what_they_take_and_not_only_their_bytes(shop: Migration) -> None:
    """A backlog of transactions of one narrow change each is bounded by what they take in memory."""
    shop.source.execute(
        "CREATE PROCEDURE write(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP"
        " INSERT INTO items VALUES (i, 1 + i % 9, ''); COMMIT; END LOOP; END $$"
    )
    idle = peak_bytes(shop.mapping, shop.here())
    shop.source.execute("CALL write(40000)")
    shop.source.execute("DROP PROCEDURE write")
    grown = peak_bytes(shop.mapping, shop.here()) - idle
    shop.judge(HOMES)
    assert grown < GROWTH_MAX


def test_a_subtree_that_moves_is_never_in_memory(shop: Migration) -> None:
    """A user's 40 MB of rows over two hops go from one shard to another with one UPDATE."""
    shop.run(
        "INSERT INTO items SELECT n, 1, repeat(md5(n::text), 20) FROM generate_series(1, 20000) n",
        "INSERT INTO notes SELECT n, n, repeat(md5(n::text), 40) FROM generate_series(1, 20000) n",
    )
    shop.tail()
    grown = growth(shop, "UPDATE users SET kind = CASE kind WHEN 'a' THEN 'b' ELSE 'a' END WHERE id = 1")
    assert grown < GROWTH_MAX


def test_many_users_move_in_one_statement(shop: Migration) -> None:
    """30,000 users change their home at once, in both directions, each with somebody who follows."""
    shop.run(
        "INSERT INTO users SELECT n, chr(97 + n % 3) FROM generate_series(100, 30000) n",
        "INSERT INTO items SELECT n, n, 'body' FROM generate_series(100, 30000) n",
    )
    shop.tail()
    grown = growth(shop, "UPDATE users SET kind = chr(97 + (ascii(kind) - 96) % 3)")
    assert grown < GROWTH_MAX

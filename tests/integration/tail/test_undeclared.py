"""References without a foreign key: the parent may come after its followers and go before them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.fix_migrations import Migration

DDL = """
CREATE TABLE users (id int PRIMARY KEY, kind text, handle text UNIQUE);
CREATE TABLE notes (id int PRIMARY KEY, owner int, text text);
CREATE TABLE marks (id int PRIMARY KEY, handle text);
CREATE TABLE stars (id int PRIMARY KEY, note int REFERENCES notes ON DELETE CASCADE);
INSERT INTO users VALUES (1, 'a', 'ann'), (2, 'b', 'bob');
INSERT INTO notes VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z'), (4, NULL, 'n');
INSERT INTO marks VALUES (1, 'ann'), (2, 'bob'), (3, 'cat'), (4, NULL);
INSERT INTO stars VALUES (1, 1), (2, 2), (3, 3), (4, 4);
"""
TABLES = """
users: {split_by: kind, homes: {a: north, b: south}}
notes: {follows: {columns: [owner], references: users, to: [id]}, otherwise: west}
marks: {follows: {columns: [handle], references: users, to: [handle]}, otherwise: west}
stars: {follows: note}
"""
KIND = "CASE kind WHEN 'a' THEN 'north' ELSE 'south' END"
HOMES = {
    "users": KIND,
    "notes": f"coalesce((SELECT {KIND} FROM users WHERE id = t.owner), 'west')",
    "marks": f"coalesce((SELECT {KIND} FROM users WHERE handle = t.handle), 'west')",
    "stars": f"coalesce((SELECT {KIND} FROM users u JOIN notes n ON n.owner = u.id WHERE n.id = t.note), 'west')",
}


@pytest.fixture
def loose_ends(migration_of: Callable[..., Migration]) -> Migration:
    """Give users with followers by key and by handle, none of them declared, and stars that follow followers."""
    migration = migration_of(TABLES, DDL).copy()
    migration.judge(HOMES)
    return migration


CHANGES = {
    "the parent comes later": ["INSERT INTO users VALUES (3, 'a', 'cat')"],
    "the parent goes first": ["DELETE FROM users WHERE id = 3"],
    "it goes and comes back of another type": [
        "DELETE FROM users WHERE id = 1",
        "INSERT INTO users VALUES (1, 'b', 'ann')",
    ],
    "followers come first in one transaction": [
        "INSERT INTO notes VALUES (30, 30, 'first')",
        "INSERT INTO marks VALUES (30, 'dan')",
        "INSERT INTO stars VALUES (30, 30)",
        "INSERT INTO users VALUES (30, 'b', 'dan')",
    ],
    "it takes another key": ["UPDATE users SET id = 31 WHERE id = 30"],
    "it takes a key that is waited for": ["UPDATE users SET id = 30 WHERE id = 31"],
    "it takes another handle": ["UPDATE users SET handle = 'eve' WHERE id = 2"],
    "handles are swapped over a third": [
        "UPDATE users SET handle = 'tmp' WHERE id = 1",
        "UPDATE users SET handle = 'ann' WHERE id = 30",
        "UPDATE users SET handle = 'dan' WHERE id = 1",
    ],
    "a follower turns to another": ["UPDATE notes SET owner = 2 WHERE id IN (1, 4)", "UPDATE marks SET handle = 'eve'"],
    "its type changes": ["UPDATE users SET kind = CASE kind WHEN 'a' THEN 'b' ELSE 'a' END"],
    "all parents go": ["TRUNCATE users"],
    "some come back": ["INSERT INTO users VALUES (2, 'a', 'ann'), (30, 'b', 'bob')"],
}


def test_followers_go_where_their_parent_comes_and_goes(loose_ends: Migration) -> None:
    """Every arrival, departure and renaming of a parent decides its followers again, and those that follow them."""
    for what, statements in CHANGES.items():
        loose_ends.run(*statements)
        loose_ends.tail()
        try:
            loose_ends.judge(HOMES)
        except AssertionError as error:
            raise AssertionError(f"after {what}: {error}") from error


def test_all_of_it_in_one_batch_ends_the_same(loose_ends: Migration) -> None:
    """The same changes as one batch of many transactions are settled once, at its end."""
    for statements in CHANGES.values():
        loose_ends.run(*statements)
    loose_ends.tail()
    loose_ends.judge(HOMES)


def test_all_of_it_in_one_transaction_ends_the_same(loose_ends: Migration) -> None:
    """The same changes as one transaction, with a TRUNCATE in its middle."""
    loose_ends.run(*(statement for statements in CHANGES.values() for statement in statements))
    loose_ends.tail()
    loose_ends.judge(HOMES)


KEYS_DDL = """
CREATE EXTENSION citext;
CREATE DOMAIN code AS numeric(12, 4);
CREATE TABLE accounts (tenant int, id numeric, kind text, PRIMARY KEY (tenant, id));
CREATE TABLE mails (address citext PRIMARY KEY, tenant int, account numeric,
    FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, id) ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE letters (id char(8) PRIMARY KEY, mail citext REFERENCES mails ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE stamps (letter char(8) REFERENCES letters ON UPDATE CASCADE ON DELETE CASCADE, n code, flag bool,
    PRIMARY KEY (letter, n, flag));
INSERT INTO accounts SELECT n % 3, n * 1.50, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 9) n;
INSERT INTO mails SELECT 'Mail' || n || '@X', n % 3, n * 1.5 FROM generate_series(1, 9) n;
INSERT INTO letters SELECT 'L' || n, 'mail' || n || '@x' FROM generate_series(1, 9) n;
INSERT INTO stamps SELECT 'L' || n, n::numeric / 4, n % 2 = 0 FROM generate_series(1, 9) n;
"""
KEYS_TABLES = """
accounts: {split_by: kind, homes: {a: north, b: south}}
mails: {follows: {columns: [tenant, account]}}
letters: {follows: mail}
stamps: {follows: letter}
"""
OF_MAIL = f"(SELECT {KIND} FROM accounts WHERE tenant = {{0}}.tenant AND id = {{0}}.account)"
KEYS_HOMES = {
    "accounts": KIND,
    "mails": OF_MAIL.format("t"),
    "letters": f"(SELECT {OF_MAIL.format('m')} FROM mails m WHERE m.address = t.mail)",
    "stamps": f"(SELECT {OF_MAIL.format('m')} FROM mails m JOIN letters l ON l.mail = m.address WHERE l.id = t.letter)",
}


def test_keys_whose_equal_values_have_several_texts(migration_of: Callable[..., Migration]) -> None:
    """Pitfall 50: composite, numeric, citext and char(n) keys find their parents however they are written."""
    migration = migration_of(KEYS_TABLES, KEYS_DDL).copy()
    migration.judge(KEYS_HOMES)
    migration.run("INSERT INTO accounts VALUES (7, 7.10, 'a')", "INSERT INTO mails VALUES ('New@X', 7, 7.1000)")
    migration.run("INSERT INTO letters VALUES ('N', 'NEW@x')", "INSERT INTO stamps VALUES ('N       ', 1.5, true)")
    migration.tail()
    migration.judge(KEYS_HOMES)
    migration.run(
        "UPDATE accounts SET kind = 'b' WHERE tenant = 7", "UPDATE mails SET address = 'nEW@X' WHERE tenant = 7"
    )
    migration.run("UPDATE accounts SET id = 7.1000 WHERE tenant = 7", "UPDATE stamps SET n = n + 1, flag = NOT flag")
    migration.tail()
    migration.judge(KEYS_HOMES)
    migration.run("UPDATE mails SET account = 1.5000, tenant = 1", "UPDATE letters SET id = 'M' || id")
    migration.run("DELETE FROM letters WHERE mail = 'MAIL3@x'", "DELETE FROM accounts WHERE kind = 'a'")
    migration.tail()
    migration.judge(KEYS_HOMES)

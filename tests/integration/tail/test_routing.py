"""Where each change goes: cascades, moves, parents of every kind, and the refusal to guess."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fixtures.fix_migrations import Migration

HOME = "CASE user_type WHEN 'client' THEN 'south' WHEN 'admin' THEN 'west' ELSE 'north' END"
HOMES = {
    "users": HOME,
    "services": f"(SELECT {HOME} FROM users u WHERE u.id = t.owner)",
    "reviews": f"(SELECT {HOME} FROM users u JOIN services s ON s.owner = u.id WHERE s.id = t.service)",
}
DDL = """
CREATE TABLE users (id int PRIMARY KEY, user_type text, email text UNIQUE, about text);
CREATE TABLE services (id int PRIMARY KEY, owner int NOT NULL REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE,
    title text, description text);
CREATE TABLE reviews (id int PRIMARY KEY, service int NOT NULL REFERENCES services ON DELETE CASCADE ON UPDATE CASCADE,
    stars int, words text);
ALTER TABLE services ALTER description SET STORAGE EXTERNAL;
ALTER TABLE reviews ALTER words SET STORAGE EXTERNAL;
INSERT INTO users VALUES (1, 'client', 'a', repeat('x', 9000)), (2, 'professional', 'b', ''), (3, 'admin', 'c', NULL);
INSERT INTO services SELECT n, 1 + n % 3, 'service ' || n, repeat(n::text, 5000) FROM generate_series(1, 9) n;
INSERT INTO reviews SELECT n, 1 + n % 9, n % 5, repeat(n::text, 5000) FROM generate_series(1, 27) n;
"""
TABLES = """
users: {split_by: user_type, homes: {client: south, professional: north, admin: west}}
services: {follows: owner}
reviews: {follows: service}
"""


@pytest.fixture
def people(migration_of: Callable[..., Migration]) -> Migration:
    """Give users of three types with services and their reviews, copied."""
    return migration_of(TABLES, DDL).copy()


def test_a_cascade_reaches_the_rows_where_they_are(people: Migration) -> None:
    """Pitfall 1: the parent's DELETE is decoded before its children's, which still find their rows by key."""
    people.run("DELETE FROM users WHERE id = 2")
    people.tail()
    assert people.judge(HOMES) == 2 + 6 + 18

"""Pitfall 66: what came to a shard through replication is not its own write, and does not go back from there."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.fixtures.fix_migrations import Migration
from tests.integration.tail.test_way_back import DDL, HOMES, TABLES, bring, contested, switch, wait_for_kinds


@pytest.mark.parametrize("major", [15, 18])
def test_what_came_to_a_shard_through_replication_does_not_go_back(
    migration_of: Callable[..., Migration], major: int
) -> None:
    """Pitfall 66. On 15 by the Origin message, from 16 on by the server."""
    migration = migration_of(TABLES, DDL, major=major).copy()
    switch(migration)
    before = migration.rows("source", "users", "id")
    origin = f"elsewhere_{major}"
    with psycopg.connect(migration.urls["north"], autocommit=True) as replicated:
        replicated.execute("SELECT pg_replication_origin_create(%s)", [origin])
        replicated.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
        replicated.execute("INSERT INTO users (kind, email) VALUES ('n', 'replicated')")
        replicated.execute("DELETE FROM users WHERE email = 'replicated'")
        replicated.execute("INSERT INTO users (kind, email) VALUES ('n', 'stays elsewhere')")
        replicated.execute("SELECT pg_replication_origin_session_reset(), pg_replication_origin_drop(%s)", [origin])
    migration.on("west", "UPDATE kinds SET name = 'changed once' WHERE id = 1")
    migration.on("south", "INSERT INTO users (kind, email) VALUES ('s', 'its own')")
    wait_for_kinds(migration)
    found = bring(migration)
    assert (0, 0, 2, 2) == (found.missed, contested(migration), found.transactions, found.changes)
    (own,) = migration.on("source", "SELECT email FROM users WHERE NOT id = ANY (%s)", [row[0] for row in before])
    assert ("its own",) == own
    migration.on("north", "DELETE FROM users WHERE email = 'stays elsewhere'")
    bring(migration)
    migration.judge(HOMES)

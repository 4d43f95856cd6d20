"""Autovacuum is no hindrance to what a copy still has to do."""

from __future__ import annotations

from collections.abc import Callable

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.postgres.sessions import scalar, session
from fixia_shardmig.schema.impatience import press_autovacuum


def test_who_may_has_autovacuum_ended_at_once_and_who_may_not_waits_a_second(
    source_cluster: Cluster, fresh_database: Callable[..., str]
) -> None:
    """The setting is a superuser's, or theirs to whom it was granted; nobody else's work fails for it."""
    found: list[str] = []
    for role in ("postgres", "pg_monitor"):
        with session(fresh_database(source_cluster, "impatience"), "test") as connection:
            connection.execute(f"SET ROLE {role}".encode())
            press_autovacuum(connection)
            found.append(scalar(connection, "SELECT current_setting('deadlock_timeout')"))
    assert ["20ms", "1s"] == found

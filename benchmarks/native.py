"""The peer that is built in: a subscription of PostgreSQL's own logical replication, from one database to one other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import sql

from benchmarks.processes import RUN_S_MAX
from fixia_shardmig.model.errors import ShardmigError

PUBLICATION = "bench"
POLL_S = 0.02

_UNREADY = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate NOT IN ('r', 's')"


@contextmanager
def publication(source_url: str) -> Iterator[None]:
    """Publish all tables of the source while the block runs."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE PUBLICATION {} FOR ALL TABLES").format(sql.Identifier(PUBLICATION)))
    try:
        yield
    finally:
        with psycopg.connect(source_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(PUBLICATION)))


def subscribe(source_url: str, target_url: str, name: str, *, synchronous_commit: str = "off") -> None:
    """Create a subscription and wait until every table's initial copy is done."""
    statement = sql.SQL(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (copy_data = true, synchronous_commit = {})"
    ).format(
        sql.Identifier(name), sql.Literal(source_url), sql.Identifier(PUBLICATION), sql.Literal(synchronous_commit)
    )
    with psycopg.connect(target_url, autocommit=True) as connection:
        connection.execute(statement)
        _wait(lambda: _value(connection, _UNREADY) == 0, f"the initial copy of {name}")


def disable(target_url: str, name: str) -> None:
    """Stop applying and wait until the slot is free; the source keeps what comes."""
    with psycopg.connect(target_url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(name)))
        query = "SELECT count(*) FROM pg_stat_subscription WHERE subname = %s AND pid IS NOT NULL"
        _wait(lambda: _value(connection, query, name) == 0, f"the worker of {name} to end")


def catch_up(target_url: str, name: str, *, table: str, last_event: str) -> float:
    """Enable a subscription and return the seconds until the row with this id is in a table."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE id = %s").format(sql.Identifier(table))
    with psycopg.connect(target_url, autocommit=True) as connection:
        if _value(connection, query, last_event) != 0:
            raise ShardmigError(f"{name} applied the backlog before it was measured", hint="was it disabled?")
        began = time.monotonic()
        connection.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(name)))
        _wait(lambda: _value(connection, query, last_event) == 1, f"{name} to catch up")
        return time.monotonic() - began


def unsubscribe(target_url: str, name: str) -> None:
    """Drop a subscription with its slot on the source."""
    with psycopg.connect(target_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SUBSCRIPTION IF EXISTS {}").format(sql.Identifier(name)))


def _value(connection: psycopg.Connection, query: LiteralString | sql.Composed, *parameters: str) -> object:
    found = connection.execute(query, parameters).fetchone()
    return found[0] if found else None


def _wait(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + RUN_S_MAX
    while not reached():
        if time.monotonic() > deadline:
            raise ShardmigError(f"waited {RUN_S_MAX:.0f} s for {what}", hint="see the target's server log")
        time.sleep(POLL_S)

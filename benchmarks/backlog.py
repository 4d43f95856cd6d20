"""Writes the tail's work: a seeded service of five tables, and a backlog of small transactions, the same every time.

The rows are made on the server (backlog.sql), by several sessions at once, so that writing takes seconds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.servers import vacuum
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.sessions import insert_lsn

SQL_FILE = Path(__file__).with_suffix(".sql")
TABLES = ("users", "services", "projects", "proposals", "events")
WORKERS = 4
"""Fixed, since the rows follow from it."""

LAST_EVENT = "the last one"

MAPPING = """
version: 1
name: {name}
source: {{url: "${{SOURCE_URL}}"}}
shards:
  professionals: {{url: "${{PROFESSIONALS_URL}}"}}
  clients: {{url: "${{CLIENTS_URL}}"}}
  shared: {{url: "${{SHARED_URL}}", journal: true}}
tables:
  users:
    split_by: user_type
    homes: {{professional: professionals, client: clients, admin: shared}}
  services: {{follows: professional_id}}
  projects: {{follows: client_id}}
  proposals: {{follows: project_id}}
  events: {{follows: user_id}}
"""
SHARDS = {"professionals": "PROFESSIONALS_URL", "clients": "CLIENTS_URL", "shared": "SHARED_URL"}


@dataclass(frozen=True, slots=True)
class Written:
    """Where a backlog ends.

    Attributes:
        changes: How many row changes it has.
        before_last: Below the last transaction: who has seen a transaction that ends above it has seen all.
        end: Above the last transaction.
    """

    changes: int
    before_last: LSN
    end: LSN


def seed(url: str, *, users: int, workers: int = WORKERS) -> None:
    """Make tables and procedures in an empty database, and users with a row each in the other tables.

    So many users are shared out among `WORKERS`; more workers than these have as many each.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL_FILE.read_bytes())
        for worker in range(workers):
            connection.execute("CALL bench.seed(%s, %s)", (worker, users // WORKERS))
    vacuum(url)


def write(url: str, *, users: int, changes: int, moves: bool) -> Written:
    """Write the backlog with every session at once, then one last row that shows its end."""
    with ThreadPoolExecutor(WORKERS) as pool:
        each = users // WORKERS, changes // WORKERS
        for done in [pool.submit(write_as, url, worker, *each, moves=moves) for worker in range(WORKERS)]:
            done.result()
    vacuum(url)
    with psycopg.connect(url, autocommit=True) as connection:
        before = insert_lsn(connection)
        connection.execute(
            "INSERT INTO events SELECT %s, min(id), 'last', '{}', '2030-01-01Z' FROM users", (LAST_EVENT,)
        )
        return Written(changes + 1, before, insert_lsn(connection))


def write_as(
    url: str, worker: int, users: int, changes: int, *, moves: bool = False, changes_per_s: float | None = None
) -> None:
    """Write one worker's changes over its own users, as fast as it goes or at a rate."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # only the writing is hurried; it is not what is measured
        connection.execute(
            "CALL bench.write(%s, %s, %s, %s, %s)", (worker, users, changes, moves, changes_per_s or 0.0)
        )


def digests(*urls: str) -> dict[str, tuple[int, int]]:
    """Return, by table, how many rows several databases have together, and the sum of their rows' hashes."""
    found: dict[str, tuple[int, int]] = dict.fromkeys(TABLES, (0, 0))
    for url in urls:
        with psycopg.connect(url) as connection:
            for table in TABLES:
                rows, hashes = _digest(connection, table)
                found[table] = (found[table][0] + rows, found[table][1] + hashes)
    return found


def _digest(connection: psycopg.Connection, table: str) -> tuple[int, int]:
    query = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} AS t")
    row = connection.execute(query.format(sql.Identifier(table))).fetchone()
    return (row[0], int(row[1])) if row else (0, 0)


def check(who: str, expected: dict[str, tuple[int, int]], *target_urls: str) -> None:
    """Refuse a result that is not the source's."""
    found = digests(*target_urls)
    wrong = [
        f"{table}: {found[table][0]} of {rows[0]} rows" for table, rows in expected.items() if found[table] != rows
    ]
    if wrong:
        raise ShardmigError(f"{who} has other rows than the source: {', '.join(wrong)}", hint="its time says nothing")

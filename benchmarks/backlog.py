"""Writes the tail's work: seeded rows in five tables, and a backlog of small transactions, the same every time.

The tables are five of the marketplace's, with all their columns and indexes, among its others; or those of a small
service of narrow rows with few indexes. The rows are made on the server, by several sessions at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import market
from benchmarks.servers import vacuum
from fixia_shardmig.demo.generator import create_schema
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.sessions import insert_lsn

COMMON = Path(__file__).with_suffix(".sql")
WORKERS = 4
"""Fixed, since the rows follow from it."""

LAST_EVENT = "the last one"

_NARROW_MAPPING = """
version: 1
name: narrow
source: {url: "${SOURCE_URL}"}
shards:
  professionals: {url: "${PROFESSIONALS_URL}"}
  clients: {url: "${CLIENTS_URL}"}
  shared: {url: "${SHARED_URL}", journal: true}
tables:
  users:
    split_by: user_type
    homes: {professional: professionals, client: clients, admin: shared}
  services: {follows: professional_id}
  projects: {follows: client_id}
  proposals: {follows: project_id}
  events: {follows: user_id}
"""


@dataclass(frozen=True, slots=True)
class Service:
    """Who writes the backlog.

    Attributes:
        procedures: The file that makes what `bench.seed` and `bench.write` call, and `bench.insert_last`; the tables
            too, if they are not the marketplace's.
        tables: The five tables; the last one gets the row that shows the backlog's end.
        mapping: A mapping's text, whose name is to be replaced.
        source: The mapping's variable for the source's URL.
        shards: Its variable for each shard's.
    """

    procedures: Path
    tables: tuple[str, ...]
    mapping: str
    source: str
    shards: Mapping[str, str]

    def mapping_of(self, name: str) -> str:
        """Return the mapping under a name of its own."""
        return re.sub(r"^name: \S+", f"name: {name}", self.mapping, flags=re.MULTILINE)


NARROW = Service(
    Path(__file__).with_name("backlog_narrow.sql"),
    ("users", "services", "projects", "proposals", "events"),
    _NARROW_MAPPING,
    "SOURCE_URL",
    {"professionals": "PROFESSIONALS_URL", "clients": "CLIENTS_URL", "shared": "SHARED_URL"},
)
MARKET = Service(
    Path(__file__).with_name("backlog_market.sql"),
    ("users", "services", "projects", "proposals", "user_activity"),
    market.MAPPING.read_text("utf-8"),
    "PRIMARY_DATABASE_URL",
    market.SHARDS,
)


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


def seed(url: str, service: Service, *, users: int, workers: int = WORKERS) -> None:
    """Make tables and procedures in an empty database, and users with a row each in the other tables.

    So many users are shared out among `WORKERS`; more workers than these have as many each.
    """
    if service is MARKET:
        create_schema(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(COMMON.read_bytes())
        connection.execute(service.procedures.read_bytes())
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_seed_as, url, worker, users // WORKERS) for worker in range(workers)]:
            done.result()
    vacuum(url)


def _seed_as(url: str, worker: int, users: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("CALL bench.seed(%s, %s)", (worker, users))


def write(url: str, *, users: int, changes: int, moves: bool) -> Written:
    """Write the backlog with every session at once, then one last row that shows its end."""
    with ThreadPoolExecutor(WORKERS) as pool:
        each = users // WORKERS, changes // WORKERS
        for done in [pool.submit(write_as, url, worker, *each, moves=moves) for worker in range(WORKERS)]:
            done.result()
    vacuum(url)
    with psycopg.connect(url, autocommit=True) as connection:
        before = insert_lsn(connection)
        connection.execute("CALL bench.insert_last(%s)", (LAST_EVENT,))
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


def digests(service: Service, *urls: str) -> dict[str, tuple[int, int]]:
    """Return, by table, how many rows several databases have together, and the sum of their rows' hashes."""
    found: dict[str, tuple[int, int]] = dict.fromkeys(service.tables, (0, 0))
    for url in urls:
        with psycopg.connect(url) as connection:
            for table in service.tables:
                rows, hashes = _digest(connection, table)
                found[table] = (found[table][0] + rows, found[table][1] + hashes)
    return found


def _digest(connection: psycopg.Connection, table: str) -> tuple[int, int]:
    query = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} AS t")
    row = connection.execute(query.format(sql.Identifier(table))).fetchone()
    return (row[0], int(row[1])) if row else (0, 0)


def check(who: str, expected: dict[str, tuple[int, int]], service: Service, *target_urls: str) -> None:
    """Refuse a result that is not the source's."""
    found = digests(service, *target_urls)
    wrong = [
        f"{table}: {found[table][0]} of {rows[0]} rows" for table, rows in expected.items() if found[table] != rows
    ]
    if wrong:
        raise ShardmigError(f"{who} has other rows than the source: {', '.join(wrong)}", hint="its time says nothing")

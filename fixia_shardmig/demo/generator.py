"""Fills an empty database with the Fixia marketplace: all tables, in the ratios and with the skew of the real one.

The same seed and size give the same rows. Rows go in by COPY before keys and indexes exist, which PostgreSQL then
checks: a row that broke a foreign key would fail the load. Refuses a database that already has the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

from fixia_shardmig.demo.market_people import Row
from fixia_shardmig.demo.marketplace import Marketplace
from fixia_shardmig.demo.odd_values import Values

SCHEMA_FILE = Path(__file__).with_name("marketplace.sql")
_KEYS_BEGIN = b"-- keys and indexes"


def create_schema(url: str) -> None:
    """Create the marketplace's types, tables, keys, indexes and foreign keys in an empty database."""
    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA_FILE.read_bytes())


def populate(url: str, *, users: int, seed: int = 1) -> int:
    """Create the marketplace with so many users (at least 4) and return how many rows it has in all tables.

    About 110 rows come with each user.
    """
    text = SCHEMA_FILE.read_bytes()
    cut = text.index(_KEYS_BEGIN)
    rows = 0
    with psycopg.connect(url) as connection:
        connection.execute(text[:cut])
        for table, generated in Marketplace(Values(seed), users=users).tables():
            rows += _copy_in(connection, table, generated)
        connection.execute("set local maintenance_work_mem = '128MB'")
        connection.execute(text[cut:])
        counted = connection.execute('select count(*) from "_prisma_migrations"').fetchone()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("analyze")
    return rows + (counted[0] if counted else 0)


def _copy_in(connection: psycopg.Connection, table: str, rows: Iterator[Row]) -> int:
    """Write a table's rows and return how many there were; the first row's keys name the columns of all."""
    first = next(rows, None)
    if first is None:
        return 0
    columns = sql.SQL(", ").join(map(sql.Identifier, first))
    count = 1
    with connection.cursor().copy(sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table), columns)) as copy:
        copy.write_row(tuple(first.values()))
        for count, row in enumerate(rows, start=2):  # noqa: B007 - the last number is the answer
            copy.write_row(tuple(row.values()))
    return count

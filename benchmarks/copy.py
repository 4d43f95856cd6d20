"""Copy: the marketplace to three shards, beside tools that copy it to one database.

Two comparisons: table data alone, into tables without any index, and everything with keys, indexes and foreign keys.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import markdown, native, ours, pgcopydb
from benchmarks.figures import Comparison, Sample
from benchmarks.market import Market
from benchmarks.processes import run_apart, run_pipe
from benchmarks.race import Contender, present, race, say
from benchmarks.servers import copy_schema, program, tables

OURS = "shardmig, three shards"


def measure_alone(market: Market, rounds: int) -> str:
    """Return a section about our copy beside nobody's: what becomes of it when there is more to copy."""
    say("copy, shardmig alone")
    ours_whole = present(race([Contender(OURS, lambda _: _ours(market))], rounds)[0])
    compared = Comparison("With keys, indexes and foreign keys", market.rows, "rows", ours_whole, ())
    parts = markdown.parts("Where shardmig's time goes", ours_whole)
    return f"{market.text()}\n\n{markdown.comparison(compared)}\n{parts}"


def measure(market: Market, rounds: int, *, kept: Path | None = None) -> str:
    """Return the section about copy; rounds of earlier runs are kept in a file, and count."""
    say("copy")
    whole, clone, data, subscription, psql = race(
        [
            Contender(OURS, lambda _: _ours(market)),
            Contender("pgcopydb clone, one target", lambda _: _clone(market)),
            Contender("pgcopydb copy table-data, one target", lambda _: _table_data(market)),
            Contender("subscription's initial copy, one target", lambda _: _subscription(market)),
            Contender("psql \\copy binary, one pipe a table, one target", lambda _: _psql(market)),
        ],
        rounds,
        kept=kept,
    )
    ours_whole = present(whole)
    ours_data = ours_whole.part(ours.DATA, OURS)
    return "\n".join(
        [
            market.text() + "\n",
            markdown.comparison(
                Comparison("Table data alone", market.rows, "rows", ours_data, (data, subscription, psql))
            ),
            markdown.comparison(
                Comparison("With keys, indexes and foreign keys", market.rows, "rows", ours_whole, (clone,))
            ),
            markdown.parts("Where shardmig's time goes", ours_whole),
        ]
    )


def _ours(market: Market) -> Sample:
    with market.migration("copy") as migration:
        market.servers.calm()
        done = run_apart(ours.migrate, migration, market.servers.jobs)
        market.check(OURS, *migration.shard_urls.values(), migration=migration)
    return Sample(done.seconds, done.peak_bytes, done.value, done.worker_peak_bytes)


def _clone(market: Market) -> Sample:
    pgcopydb.find()
    with market.database("clone") as url:
        market.servers.calm()
        sample = pgcopydb.clone(market.url, url, servers=market.servers)
        market.check("pgcopydb clone", url)
    return sample


def _table_data(market: Market) -> Sample:
    pgcopydb.find()
    with market.database("table_data") as url:
        copy_schema(market.url, url, folder=market.servers.folder, section="pre-data")
        market.servers.calm()
        sample = pgcopydb.copy_table_data(market.url, url, servers=market.servers)
        market.check("pgcopydb copy table-data", url)
    return sample


def _subscription(market: Market) -> Sample:
    with market.database("subscription") as url, native.publication(market.url):
        copy_schema(market.url, url, folder=market.servers.folder, section="pre-data")
        market.servers.calm()
        began = time.monotonic()
        native.subscribe(market.url, url, "bench_copy")
        sample = Sample(time.monotonic() - began)
        native.unsubscribe(url, "bench_copy")
        market.check("the subscription", url)
    return sample


def _psql(market: Market) -> Sample:
    with market.database("psql") as url:
        copy_schema(market.url, url, folder=market.servers.folder, section="pre-data")
        market.servers.calm()
        began = time.monotonic()
        with ThreadPoolExecutor(market.servers.jobs) as pool:
            for done in [pool.submit(_pipe, market.url, url, table) for table in tables(market.url)]:
                done.result()
        sample = Sample(time.monotonic() - began)
        market.check("psql", url)
    return sample


def _pipe(source_url: str, target_url: str, table: str) -> None:
    psql = (str(program("psql")), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--command")
    with psycopg.connect(source_url) as quoting:
        out, into = (
            sql.SQL(form).format(sql.Identifier("public", table)).as_string(quoting)
            for form in ("COPY {} TO STDOUT (FORMAT binary)", "COPY {} FROM STDIN (FORMAT binary)")
        )
    run_pipe([*psql, out], [*psql, into], source_url=source_url, target_url=target_url)

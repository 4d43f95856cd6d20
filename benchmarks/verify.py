"""Verify: source and three shards compared at one LSN, beside counting all rows, the least that says anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import markdown, ours, pgcopydb
from benchmarks.figures import Comparison, Sample
from benchmarks.market import Market
from benchmarks.processes import run_apart
from benchmarks.race import Contender, present, race, say
from benchmarks.servers import tables, vacuum

OURS = "shardmig verify, source and three shards"


def measure(market: Market, rounds: int, *, kept: Path | None = None) -> str:
    """Return the section about verify; `kept` is a file of earlier runs' rounds, which count too."""
    say("verify")
    with ExitStack() as stack:
        migration = stack.enter_context(market.migrated_once("verify"))
        market.servers.calm()
        clones = _Clone(market, stack)
        verified, counted, compared = race(
            [
                Contender(OURS, lambda _: _ours(market, migration)),
                Contender("select count(*), the same tables on both sides", lambda _: _count(market, migration)),
                Contender("pgcopydb compare data, one target", lambda _: clones.compare()),
            ],
            rounds,
            kept=kept,
        )
    comparison = Comparison("Both sides", market.rows, "rows", present(verified), (counted, compared))
    return f"{market.text()}\n\n{markdown.comparison(comparison)}"


def _ours(market: Market, migration: ours.Migration) -> Sample:
    done = run_apart(ours.verify, migration, market.servers.jobs)
    return Sample(done.seconds, done.peak_bytes)


def _count(market: Market, migration: ours.Migration) -> Sample:
    """Count every table of every database, as many at a time as verify scans, the largest first."""
    urls = [market.url, *migration.shard_urls.values()]
    present_in = {url: frozenset(tables(url)) for url in urls}
    work = iter([(url, table) for table in tables(market.url) for url in urls if table in present_in[url]])
    began = time.monotonic()
    with ThreadPoolExecutor(market.servers.jobs) as pool:
        for done in [pool.submit(_count_next, work) for _ in range(market.servers.jobs)]:
            done.result()
    return Sample(time.monotonic() - began)


def _count_next(work: Iterator[tuple[str, str]]) -> None:
    """Count one table after the other until none is left, over one session a database."""
    with ExitStack() as stack:
        sessions: dict[str, psycopg.Connection] = {}
        for url, table in work:  # a list's iterator may be shared between threads
            if url not in sessions:
                sessions[url] = stack.enter_context(psycopg.connect(url, autocommit=True))
            sessions[url].execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("public", table)))


class _Clone:
    """A database that pgcopydb has cloned, made when it is first compared."""

    def __init__(self, market: Market, stack: ExitStack) -> None:
        self._market = market
        self._stack = stack
        self._url = ""

    def compare(self) -> Sample:
        pgcopydb.refuse_without_compare()
        if not self._url:
            self._url = self._stack.enter_context(self._market.made_once("compare", self._clone))
            self._market.servers.calm()
        return pgcopydb.compare_data(self._market.url, self._url, servers=self._market.servers)

    def _clone(self, url: str) -> None:
        pgcopydb.clone(self._market.url, url, servers=self._market.servers)
        vacuum(url)

"""kill -9 of copy and tail, again and again, while writers write: every row is there once, at home, unchanged."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.oracle import Judgement, judge
from fixia_shardmig.demo.writers import Writers
from fixia_shardmig.model.places import VARIABLE
from tests.fixtures.fix_clusters import SHARDS
from tests.fixtures.fix_fleet import FleetOfWorkers
from tests.fixtures.fix_program import Program, password_of, plain_environment

MAPPING = Path(__file__).resolve().parents[2] / "mappings" / "fixia.yaml"
WRITES_PER_S = 60.0
SMALL_CHUNKS = ("--chunk-bytes", "64KiB")


class Market(Program):
    """The program with the marketplace, whose writers write."""

    source: str
    shards: dict[str, str]

    def has_copied(self, chunks: int) -> bool:
        """Whether the journal has so many chunks as done."""
        with psycopg.connect(self.shards["shared"]) as journal:
            if not journal.execute("select from pg_tables where tablename = 'chunk'").rowcount:
                return False
            row = journal.execute("select count(done_epoch) from shardmig.chunk").fetchone()
            return row is not None and row[0] >= chunks

    def is_past(self, lsn: str) -> bool:
        """Whether something was applied since."""
        return self.applied() != lsn

    def applied(self) -> str:
        """Return up to where the shard of the journal has applied the stream."""
        with psycopg.connect(self.shards["shared"]) as shard:
            row = shard.execute("select applied_lsn::text from shardmig.position").fetchone()
            return str(row[0]) if row else ""

    def judge(self) -> Judgement:
        """Hold every row against the source."""
        return judge(self.source, self.shards)


@pytest.fixture
def market(
    tmp_path: Path, market_url: str, target_cluster: Cluster, fresh_database: Callable[..., str]
) -> Iterator[Market]:
    """Give a small marketplace with empty shards."""
    market = Market(tmp_path, plain_environment(tmp_path), MAPPING)
    market.source = market_url
    market.shards = {shard: fresh_database(target_cluster, shard) for shard in SHARDS}
    market.env["PRIMARY_DATABASE_URL"] = market_url
    market.env |= {f"{shard.upper()}_DB_URL": url for shard, url in market.shards.items()}
    yield market
    market.close()


def _caught_up(market: Market, writers: Writers) -> Judgement:
    writers.pause()
    market.run("tail", "--until", "caught-up").expect(0)
    return market.judge()


def test_a_copy_killed_at_several_moments_is_resumed_under_writers_without_a_lost_row(market: Market) -> None:
    """Killed before its list of chunks, after the first chunks, later, and while it builds keys."""
    with Writers(market.source, threads=2, transactions_per_s=WRITES_PER_S) as writers:
        market.start("copy", *SMALL_CHUNKS).wait_for("tables made").kill()
        for chunks in (1, 20):
            running = market.start("copy", "--resume", "--jobs", "1", *SMALL_CHUNKS)
            running.wait_until(partial(market.has_copied, chunks), what=f"{chunks} chunks")
            running.kill()
        running = market.start("copy", "--resume", *SMALL_CHUNKS).wait_for("building primary keys")
        running.kill()
        copied = market.json("copy", "--resume")
        judgement = _caught_up(market, writers)
    assert copied["epochs"] >= 3
    assert writers.counters().transactions > 0
    assert judgement.rows > 5000
    assert Judgement(rows=judgement.rows, undecided=judgement.undecided) == judgement


def test_a_tail_killed_again_and_again_applies_every_change_once(market: Market) -> None:
    """Killed while it builds indexes, and in the middle of following; each run goes on where the shards stand."""
    with Writers(market.source, threads=2, transactions_per_s=WRITES_PER_S) as writers:
        market.run("copy").expect(0)
        market.start("tail").wait_for("building indexes").kill()
        for _ in range(3):
            before = market.applied()
            running = market.start("tail")
            running.wait_until(partial(market.is_past, before), what="progress")
            running.kill()
        judgement = _caught_up(market, writers)
        market.run("verify").expect(0)
    assert Judgement(rows=judgement.rows, undecided=judgement.undecided) == judgement


def test_workers_that_die_in_the_middle_of_a_chunk_under_writers_cost_nothing(
    market: Market, scheduler: FleetOfWorkers
) -> None:
    """One is killed before a chunk's commit, one between the commits of two shards; the last copies what they had."""
    doomed = [
        scheduler.start_worker(env={VARIABLE: "copy.before_chunk_commit:4"}),
        scheduler.start_worker(env={VARIABLE: "copy.chunk_committed:6"}),
    ]
    scheduler.start_worker()
    with Writers(market.source, threads=2, transactions_per_s=WRITES_PER_S) as writers:
        market.run("copy", *scheduler.executor, *SMALL_CHUNKS).expect(0)
        judgement = _caught_up(market, writers)
        market.run("verify").expect(0)
    assert [-signal.SIGKILL] * 2 == [worker.poll() for worker in doomed]
    assert Judgement(rows=judgement.rows, undecided=judgement.undecided) == judgement
    assert 1 == market.json("copy", "--resume")["epochs"]
    assert [] == [url for url in (market.source, *market.shards.values()) if password_of(url) in scheduler.log]

"""Live writers write every shape of transaction, survive a fence, move to the shards, and keep an honest ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.generator import populate
from fixia_shardmig.demo.odd_values import Values
from fixia_shardmig.demo.oracle import judge
from fixia_shardmig.demo.works import EVERYONE, SHARD, SHARED_SHARD, WHOLE, RollBackError, Turn, Work, use_savepoints
from fixia_shardmig.demo.writers import Writers, connect
from tests.fixtures.fix_market import LIVES_ON, SplitMarket

DEADLINE_S = 30.0

WORKS: list[Work] = sorted({*WHOLE, *SHARD, *SHARED_SHARD}, key=str)

FENCE = """
create function refuse() returns trigger language plpgsql as $$
    begin raise exception 'fenced' using errcode = '57FFF'; end $$;
do $$ declare name text; begin
    for name in select tablename from pg_tables where schemaname = 'public' loop
        execute format('create trigger fence before insert or update or delete on %I execute function refuse()', name);
    end loop;
end $$;
"""
UNFENCE = "drop function refuse cascade"


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement and give its rows."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("work", WORKS)
def test_each_work_writes_what_it_says_it_wrote(market_url: str, work: Work) -> None:
    """Run alone, no work fails, and the rows it notes as inserted are there after the commit."""
    with connect(market_url) as connection:
        values = Values(99)
        for _ in range(5):
            turn = Turn(connection, values, types=EVERYONE)
            try:
                work(turn)
            except RollBackError:
                connection.rollback()
                continue
            connection.commit()
            balance: dict[tuple[str, str], int] = {}
            for touch in turn.touches:
                step = {"insert": 1, "update": 0, "delete": -1}[touch.kind]
                balance[touch.table, touch.key] = balance.get((touch.table, touch.key), 0) + step
            for (table, key), count in balance.items():
                found = run(market_url, f"select 1 from {table} where id = '{key}'")
                assert count <= 0 or found, f"{work.__name__} noted {table} {key}"
                assert count >= 0 or not found, f"{work.__name__} noted that {table} {key} is gone"


def test_a_rolled_back_savepoint_is_not_noted(market_url: str) -> None:
    """Pitfall 28: only the subtransactions that were kept are in the touches, also beyond 64 of them."""
    with connect(market_url) as connection:
        values = Values(3)
        longest = 0
        for _ in range(80):
            turn = Turn(connection, values, types=EVERYONE)
            before = connection.execute("select count(*) as n from notifications").fetchone()
            use_savepoints(turn)
            after = connection.execute("select count(*) as n from notifications").fetchone()
            assert before is not None
            assert after is not None
            assert len(turn.touches) == after["n"] - before["n"]
            longest = max(longest, len(turn.touches))
            connection.commit()
    assert longest > 32


def test_every_kind_of_work_occurs_and_nearly_all_of_it_succeeds(market_url: str) -> None:
    """Of some hundred mixed transactions every kind occurs, some are rolled back, and nearly all others succeed."""
    with Writers(market_url, threads=3, seed=5) as writers:
        wait_for(lambda: writers.counters().transactions > 800)
    counters = writers.counters()
    assert counters.errors.total() < counters.transactions / 20
    assert counters.rolled_back > 0
    assert {work.__name__ for work in WHOLE} - {"give_up"} == set(counters.by_work)


def test_a_fence_is_felt_as_a_gap_and_survived(market_url: str) -> None:
    """While triggers refuse, errors are counted by SQLSTATE; after it writing goes on, and the gap was measured."""
    with Writers(market_url, threads=2) as writers:
        wait_for(lambda: writers.counters().transactions > 20)
        writers.forget_gaps()
        run(market_url, FENCE)
        fenced = time.monotonic()
        wait_for(lambda: writers.counters().errors["57FFF"] > 20)
        seconds = time.monotonic() - fenced
        run(market_url, UNFENCE)
        fenced_at = writers.counters().transactions
        wait_for(lambda: writers.counters().transactions > fenced_at + 20)
    gap = writers.longest_gap()
    assert gap is not None
    assert gap.seconds >= seconds
    assert gap.seconds == pytest.approx((gap.ended_at - gap.began_at).total_seconds(), abs=1e-3)


def test_a_pause_is_quiet_and_no_gap(market_url: str) -> None:
    """While paused no transaction is open, and the pause does not count as a gap."""
    with Writers(market_url, threads=2) as writers:
        wait_for(lambda: writers.counters().transactions > 10)
        writers.pause()
        before = writers.counters().transactions
        open_now = "select count(*) from pg_stat_activity where application_name = 'fixia' and xact_start is not null"
        assert [(0,)] == run(market_url, open_now + " and datname = current_database()")
        writers.forget_gaps()
        time.sleep(1.0)
        assert before == writers.counters().transactions
        writers.resume()
        wait_for(lambda: writers.counters().transactions > before + 10)
        gap = writers.longest_gap()
    assert gap is not None
    assert gap.seconds < 1.0


def test_a_rate_is_kept(market_url: str) -> None:
    """Forty transactions a second for a second and a half are about sixty, far from what is possible."""
    with Writers(market_url, threads=2, transactions_per_s=40) as writers:
        time.sleep(1.5)
    counters = writers.counters()
    turns = counters.transactions + counters.rolled_back + counters.idle_turns + counters.errors.total()
    assert turns <= 40 * 1.5 + 2 + 40  # one second may be caught up


def test_a_server_crash_is_survived(new_cluster: Callable[..., Cluster]) -> None:
    """When the server is killed and comes back, writers reconnect; broken commits count as uncertain, not as done."""
    cluster = new_cluster()
    url = cluster.create_database("crash")
    populate(url, users=20)
    with Writers(url, threads=2) as writers:
        wait_for(lambda: writers.counters().transactions > 20)
        cluster.kill()
        wait_for(lambda: writers.counters().errors.total() > 2)
        cluster.start()
        before = writers.counters().transactions
        wait_for(lambda: writers.counters().transactions > before + 20)


def home_finder(market: SplitMarket) -> Callable[[str], str | None]:
    """Give what a router would: a user's shard, by asking each."""

    def home_of(user: str) -> str | None:
        return next(
            (shard for shard in LIVES_ON if run(market.shard_urls[shard], f"select 1 from users where id = '{user}'")),
            None,
        )

    return home_of


def test_after_the_move_everything_goes_to_the_shards(split_market: SplitMarket) -> None:
    """The source stays as it is, all three shards are written to, and the oracle finds each row where it belongs."""
    source_before = run(split_market.source_url, "select count(*), max(created_at) from notifications")
    writers = Writers(split_market.source_url, threads=3, seed=8)
    writers.move_to(split_market.shard_urls, home_of=home_finder(split_market))
    with writers:
        wait_for(lambda: writers.counters().transactions > 300)
    assert {"professionals", "clients", "shared"} == {entry.place for entry in writers.ledger()}
    assert 0 == writers.counters().errors["misrouted"]
    assert source_before == run(split_market.source_url, "select count(*), max(created_at) from notifications")
    judgement = judge(split_market.source_url, split_market.shard_urls, ledger=writers.ledger())
    assert ([], [], [], [], []) == (
        judgement.lost,
        judgement.doubled,
        judgement.misplaced,
        judgement.differing,
        judgement.extra,
    )


def test_a_router_that_is_wrong_is_noticed(split_market: SplitMarket) -> None:
    """If the router sends a user elsewhere than where they live, the turn is counted as misrouted and not written."""
    writers = Writers(split_market.source_url, threads=1)
    writers.move_to({"clients": split_market.shard_urls["clients"]}, home_of=lambda _: "professionals")
    with writers:
        wait_for(lambda: writers.counters().errors["misrouted"] > 5)


def test_writers_move_back(split_market: SplitMarket) -> None:
    """After a rollback the source is written again, and the shards' ledger is kept for the judge."""
    with Writers(split_market.source_url, threads=1) as writers:
        writers.pause()
        writers.move_to(split_market.shard_urls)
        writers.resume()
        wait_for(lambda: len(writers.ledger()) > 10)
        writers.pause()
        writers.move_back(split_market.source_url)
        ledger = writers.ledger()
        before = writers.counters().transactions
        writers.resume()
        wait_for(lambda: writers.counters().transactions > before + 10)
    assert ledger == writers.ledger()

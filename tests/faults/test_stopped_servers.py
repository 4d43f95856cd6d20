"""A shard or the source goes away in the middle of copy, tail and verify: exit 75 at once, and the hint goes on.

A lock that the test holds keeps the program in the middle for as long as the fault takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_clusters import UNSAFE_BUT_FAST
from tests.fixtures.fix_faults import copy_held_at, follow, holding, waits_for_a_lock
from tests.fixtures.fix_program import Running, Shop

PROMPT_S = 45.0
"""Retries of a copy's worker included; a barrier's deadline of two minutes is not."""


@pytest.fixture(scope="module")
def fragile_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """Give a server that tests may crash: every database of it is one test's alone."""
    with Cluster.create(servers_directory / "fragile-sto", settings=UNSAFE_BUT_FAST) as cluster:
        yield cluster


def _end_in_time(running: Running, code: int) -> tuple[str, str]:
    ended = running.end(PROMPT_S).expect(code)
    return ended.cause, ended.hint


def test_a_shard_that_stops_during_the_copy_is_named_and_the_copy_goes_on(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """What the other shard has stays; the rest comes under a new snapshot."""
    shop = make_shop(pros=fragile_cluster)
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop)
        fragile_cluster.kill()
        cause, hint = _end_in_time(running, 75)
    assert f"127.0.0.1:{fragile_cluster.port}/" in cause
    assert hint.endswith("shardmig copy --resume")
    fragile_cluster.start()
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_shard_that_stops_under_a_tail_is_named_and_the_tail_goes_on(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """The slot keeps what the shard missed; status says what the matter is."""
    shop = make_shop(pros=fragile_cluster)
    shop.run("copy").expect(0)
    running = follow(shop)
    fragile_cluster.kill()
    shop.sql("source", "insert into orders (user_id, what) select 1 + n % 400, 'more' from generate_series(1, 50) n")
    cause, hint = _end_in_time(running, 75)
    assert f"127.0.0.1:{fragile_cluster.port}/" in cause
    assert "shard pros" in cause
    assert hint.endswith("shardmig tail")
    status = shop.run("status", "--exit-code").expect(1)
    assert "problem     shard pros does not answer" in status.stdout
    fragile_cluster.start()
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_journal_that_stops_under_a_tail_is_named_and_the_tail_goes_on(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """Without its journal nothing is applied any more; with it everything is."""
    shop = make_shop(clients=fragile_cluster)
    shop.run("copy").expect(0)
    running = follow(shop)
    fragile_cluster.kill()
    shop.sql("source", "insert into orders (user_id, what) select 1 + n % 400, 'more' from generate_series(1, 50) n")
    cause, hint = _end_in_time(running, 75)
    assert f"127.0.0.1:{fragile_cluster.port}/" in cause
    assert hint.endswith("shardmig tail")
    assert 75 == shop.run("status").code
    fragile_cluster.start()
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_shard_that_stops_during_a_verify_is_named_and_verify_can_be_run_again(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """It could not say, which is neither equal nor different."""
    shop = make_shop(pros=fragile_cluster)
    shop.run("copy").expect(0)
    tail = follow(shop)
    with holding(shop.urls["pros"], "users"):
        running = shop.start("verify")
        running.wait_until(waits_for_a_lock(shop.urls["pros"], "verify"), what="a scan that waits")
        fragile_cluster.kill()
        cause, hint = _end_in_time(running, 75)
    assert f"127.0.0.1:{fragile_cluster.port}/" in cause
    assert "shardmig verify" in hint
    _end_in_time(tail, 75)
    assert "tailing" == shop.json("status")["phase"]
    fragile_cluster.start()
    shop.run("verify").expect(0)


def test_a_tail_that_ends_under_a_waiting_verify_ends_it_at_once(shop: Shop) -> None:
    """Another process's tail is killed while verify waits for its barrier: no wait for the barrier's deadline."""
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    tail = follow(shop)
    with holding(shop.urls["pros"], "users"):
        shop.sql("source", "update users set note = 'changed'")
        tail.wait_until(waits_for_a_lock(shop.urls["pros"], "tail pros"), what="an applier that waits")
        verify = shop.start("verify")
        verify.wait_until(
            lambda: shop.one("clients", "select count(*) from shardmig.barrier where released_at is null"),
            what="a barrier",
        )
        tail.kill()
        cause, hint = _end_in_time(verify, 75)
    assert "the tail that was running has ended" in cause
    assert hint.endswith("shardmig verify --resume")
    shop.run("verify").expect(0)
    shop.check_nothing_lost()


def test_a_source_that_restarts_during_the_copy_costs_a_new_snapshot_and_no_row(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """The snapshot is lost with its session: the rest is copied under the next, and the tail makes them one."""
    shop = make_shop(source=fragile_cluster)
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders") as lock:
        running = copy_held_at(shop, "--jobs", "1", "--chunk-bytes", "32KiB")
        fragile_cluster.kill()
        fragile_cluster.start()
        shop.sql("source", "update users set note = 'after the crash'")
        lock.rollback()
        cause, hint = _end_in_time(running, 75)
    assert cause
    assert hint.endswith("shardmig copy --resume") or "copy --resume goes on" in hint
    assert 1 < shop.json("copy", "--resume")["epochs"]
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()


def test_a_source_that_restarts_under_a_tail_loses_nothing(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster
) -> None:
    """Pitfall 39: the slot sends again what was not acknowledged. Each command tells what the journal knows."""
    shop = make_shop(source=fragile_cluster)
    shop.run("copy").expect(0)
    running = follow(shop)
    shop.sql("source", "update users set note = 'before the crash'")
    fragile_cluster.kill()
    cause, hint = _end_in_time(running, 75)
    assert f"127.0.0.1:{fragile_cluster.port}/" in cause
    assert "run: shardmig tail" in hint
    for command in ("status", "finalize"):
        assert "the journal says: phase tailing, source may write" in shop.run("--yes", command).expect(75).cause
    fragile_cluster.start()
    shop.sql("source", "delete from users where id % 7 = 0")
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()

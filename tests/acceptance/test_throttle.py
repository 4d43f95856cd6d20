"""A running copy or tail is slowed down, paused and let go from another terminal, and says why it is slow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_faults import FOLLOWING, follow
from tests.fixtures.fix_program import Shop

SHARDS = ("pros", "clients")


def throttle_of(shop: Shop) -> dict[str, Any]:
    """Return what `status` says of the pace."""
    found: dict[str, Any] = shop.json("status")["throttle"]
    return found


def rows_copied(shop: Shop) -> int:
    """Return how many users the shards have."""
    return sum(shop.one(shard, "select count(*) from users") for shard in SHARDS)


def events(shop: Shop) -> list[tuple[str, str]]:
    """Return the events about the pace: (event, kind), in order."""
    return shop.sql(
        "clients",
        "select event, coalesce(detail->>'kind', '') from shardmig.event where event ~ 'paus|resum|pace' order by id",
    )


def test_a_paused_copy_begins_no_chunk_until_it_may(shop: Shop) -> None:
    """Pause comes from another terminal; status says why nothing moves, and resume lets it finish."""
    shop.run("schema", "apply").expect(0)
    paused = shop.run("pause").expect(0)
    assert "paused" in paused.stdout
    assert "paused; nothing runs" in shop.run("status").stdout
    running = shop.start("copy", "--resume").wait_for("slowed down: paused by an operator")
    shown = throttle_of(shop)
    assert (True, True, "paused") == (shown["paused"], shown["held"], shown["kind"])
    assert shown["since"]
    assert rows_copied(shop) == 0
    shop.run("resume").expect(0)
    running.end().expect(0)
    assert rows_copied(shop) > 0
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()
    assert [("paused", ""), ("pace_changed", "paused"), ("resumed", ""), ("pace_changed", "")] == events(shop)


def test_a_paused_copy_still_ends_at_a_signal(shop: Shop) -> None:
    """Ctrl-C does not wait for the pause to end, and the copy goes on afterwards."""
    shop.run("schema", "apply").expect(0)
    shop.run("pause").expect(0)
    running = shop.start("copy", "--resume").wait_for("slowed down: paused")
    running.interrupt().end().expect(130)
    shop.run("resume").expect(0)
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_paused_tail_keeps_its_slot_and_loses_nothing(shop: Shop) -> None:
    """It goes on answering the source; what is written meanwhile comes after the pause, and barriers are served."""
    shop.run("copy").expect(0)
    running = follow(shop)
    shop.run("pause").expect(0)
    running.wait_for("slowed down: paused")
    shop.sql("source", "insert into users values (9001, 'pro', 'written while paused')")
    held: dict[str, Any] = throttle_of(shop)
    assert held["held"] is True
    assert shop.one("pros", "select count(*) from users where id = 9001") == 0
    assert shop.one("source", "select active from pg_replication_slots where slot_name = 'shardmig_shop'") is True
    verify = shop.start("verify").wait_for("comparing at")
    shop.run("resume").expect(0)
    running.wait_for("no longer slowed down")
    verify.end().expect(0)
    running.wait_until(lambda: shop.one("pros", "select count(*) from users where id = 9001"), what="the row")
    running.interrupt().end().expect(130)
    shop.check_nothing_lost()


def test_a_busy_source_holds_the_copy(shop: Shop) -> None:
    """`--max-load` counts active client sessions that are not ours, and the reason has the figures."""
    shop.run("schema", "apply").expect(0)
    with ThreadPoolExecutor(1) as other:
        busy = other.submit(shop.sql, "source", "select pg_sleep(120)")
        running = shop.start("copy", "--resume", "--max-load", "0").wait_for("sessions are active on the source")
        assert throttle_of(shop)["kind"] == "load"
        assert rows_copied(shop) == 0
        shop.sql("source", "select pg_cancel_backend(pid) from pg_stat_activity where query = 'select pg_sleep(120)'")
        assert isinstance(busy.exception(), errors.QueryCanceled)
    running.end().expect(0)
    assert rows_copied(shop) > 0


def test_a_lag_that_cannot_be_read_holds_the_copy(shop: Shop) -> None:
    """A standby that nobody sees may be hours behind: not knowing is no leave to go on."""
    shop.run("schema", "apply").expect(0)
    running = shop.start("copy", "--resume", "--max-replica-lag", "1").wait_for("replica lag cannot be read")
    assert throttle_of(shop)["kind"] == "replica_lag"
    assert rows_copied(shop) == 0
    running.interrupt().end().expect(130)


def test_a_standby_that_falls_behind_holds_the_copy_until_it_is_near(
    make_shop: Callable[..., Shop], new_cluster: Callable[..., Cluster], standby_of: Callable[[Cluster], Cluster]
) -> None:
    """`--max-replica-lag` is held against what a real standby has replayed; the figures are in the reason."""
    source = new_cluster()
    standby = standby_of(source)
    shop = make_shop(source=source)
    shop.run("schema", "apply").expect(0)
    with psycopg.connect(standby.url(), autocommit=True) as replaying:
        replaying.execute("select pg_wal_replay_pause()")
        rows = "select n, 'pro', n || repeat(md5(n::text), 90) from generate_series(500, 4500) n"
        shop.sql("source", f"insert into users {rows}")
        running = shop.start("copy", "--resume", "--jobs", "1", "--rate", "1MiB/s", "--max-replica-lag", "500ms")
        running.wait_for("s behind, more than 0.5 s")
        assert throttle_of(shop)["kind"] == "replica_lag"
        assert rows_copied(shop) < shop.one("source", "select count(*) from users")
        replaying.execute("select pg_wal_replay_resume()")
    shop.run("throttle", "--rate", "100MB/s").expect(0)
    running.end().expect(0)
    assert rows_copied(shop) == shop.one("source", "select count(*) from users")


def test_another_rate_reaches_a_chunk_that_is_under_way(shop: Shop) -> None:
    """At the first rate the chunk of users would take half a minute; `throttle` lets the same chunk go on faster."""
    shop.sql(
        "source", "insert into users select n, 'pro', n || repeat(md5(n::text), 90) from generate_series(500, 6500) n"
    )
    shop.run("schema", "apply").expect(0)
    running = shop.start("copy", "--resume", "--jobs", "1", "--rate", "512KiB/s")
    under_way = "select tuples_processed > 0 from pg_stat_progress_copy where relid = 'users'::regclass"
    running.wait_until(lambda: any(row[0] for row in shop.sql("pros", under_way)), what="a chunk under way")
    shop.run("throttle", "--rate", "100MB/s").expect(0)
    running.end().expect(0)
    assert [(1, 1)] == shop.sql(
        "clients", "select count(*), min(done_epoch) from shardmig.chunk where table_name = 'users'"
    )
    assert rows_copied(shop) == shop.one("source", "select count(*) from users")


def test_a_low_rate_is_not_taken_for_silence(shop: Shop) -> None:
    """A shard that no row is for, for longer than it may be silent, keeps its session and its part of the chunk."""
    shop.sql(
        "source", "insert into users select n, 'pro', n || repeat(md5(n::text), 90) from generate_series(500, 1250) n"
    )
    shop.run("schema", "apply").expect(0)
    env = {**shop.env, "SHARDMIG_SILENCE_S": "1"}
    shop.run("copy", "--resume", "--jobs", "1", "--rate", "256KiB/s", env=env).expect(0)
    assert rows_copied(shop) == shop.one("source", "select count(*) from users")


def test_run_keeps_the_limits_in_every_phase(shop: Shop) -> None:
    """`run --rate` holds copy, catching up and following alike, and each says so."""
    running = shop.start("run", "--until", "tail", "--rate", "600KiB/s").wait_for(FOLLOWING)
    running.wait_until(lambda: throttle_of(shop)["rate_bytes_per_s"] == 600 * 1024, what="the rate while following")
    running.wait_until(lambda: running.stderr.count("slowed down: limited to 0.6 MiB/s") == 3, what="three phases")
    running.interrupt().end().expect(130)


def test_a_rate_is_followed_and_what_is_asked_is_kept_until_cleared(shop: Shop) -> None:
    """`copy --rate` slows the copy down, and says so; `throttle` keeps what is asked, and `--clear` forgets it."""
    shop.sql("source", "insert into users select n, 'pro', repeat(md5(n::text), 60) from generate_series(5000, 5800) n")
    shop.run("schema", "apply").expect(0)
    running = shop.start("copy", "--resume", "--rate", "512KiB/s").wait_for("slowed down: limited to 0.5 MiB/s")
    assert throttle_of(shop)["rate_bytes_per_s"] == 512 * 1024
    running.end().expect(0)
    assert shop.json("throttle", "--rate", "300KiB/s")["rate_bytes_per_s"] == 300 * 1024
    shown = shop.json("throttle")
    assert shown["rate_bytes_per_s"] == 300 * 1024
    assert shop.json("throttle", "--clear")["rate_bytes_per_s"] is None


@pytest.mark.parametrize("command", ["copy", "tail", "run", "throttle"])
def test_a_rate_that_would_look_like_silence_is_refused(shop: Shop, command: str) -> None:
    """So slow that a server would take us for gone; the hint says what stops the work altogether."""
    shop.run("schema", "apply").expect(0)
    assert "shardmig pause" in shop.run(command, "--rate", "10KiB/s").expect(4).hint

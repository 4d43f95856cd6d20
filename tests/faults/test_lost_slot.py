"""The source removes WAL that the slot needs, or somebody drops it: warned of in time, then a clear end, no success.

Each server keeps next to no WAL for slots, so that one is really lost.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_faults import BEGIN_AGAIN, copy_held_at, follow, holding, lose_slot, waits_for_a_lock, write_wal
from tests.fixtures.fix_program import Ended, Shop

KEEPS_NOTHING = {"max_slot_wal_keep_size": "1MB"}
KEEPS_SIX_SEGMENTS = {"max_slot_wal_keep_size": "96MB"}


@pytest.fixture
def forgetful_shop(make_shop: Callable[..., Shop], new_cluster: Callable[..., Cluster]) -> Shop:
    """Give a shop whose source keeps no WAL for slots."""
    return make_shop(source=new_cluster(settings=KEEPS_NOTHING))


def _ends_for_good(shop: Shop, ended: Ended, *, because: str) -> None:
    """A refusal that names the slot; status agrees; and what the hint says leads to a migration without a fault."""
    ended.expect(4)
    assert because in ended.cause
    assert ended.hint.endswith(BEGIN_AGAIN)
    assert "shardmig abort --drop-targets" in shop.run("status", "--exit-code").expect(1).stdout
    shop.run("--yes", "abort", "--drop-targets").expect(0)
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_slot_lost_during_the_copy_ends_it_before_it_is_called_done(forgetful_shop: Shop) -> None:
    """Pitfall 17: the rows of the snapshot are all there, and yet it is no success: what came since is gone."""
    shop = forgetful_shop
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop)
        lose_slot(shop.urls["source"])
    ended = running.end().expect(4)
    assert shop.json("status")["phase"] == "copying"
    assert "slot_lost" in shop.run("events").stdout
    assert "is lost" in shop.run("copy", "--resume").expect(4).cause
    _ends_for_good(shop, ended, because="is lost")


def test_a_slot_lost_between_copy_and_tail_is_refused(forgetful_shop: Shop) -> None:
    """Pitfall 17: nobody watched, so the next command finds it."""
    shop = forgetful_shop
    shop.run("copy").expect(0)
    lose_slot(shop.urls["source"])
    _ends_for_good(shop, shop.run("tail", "--until", "caught-up"), because="is lost")


def test_a_slot_lost_under_a_tail_that_waits_is_no_passing_trouble(forgetful_shop: Shop) -> None:
    """Pitfalls 17, 39: the server ends the reader first, which alone would look as if the same command could go on."""
    shop = forgetful_shop
    shop.run("copy").expect(0)
    running = follow(shop)
    with holding(shop.urls["pros"], "users"):
        shop.sql("source", "update users set note = 'not on the shards'")
        running.wait_until(waits_for_a_lock(shop.urls["pros"], "tail pros"), what="an applier that waits")
        lose_slot(shop.urls["source"])
    ended = running.end()
    assert "slot_lost" in shop.run("events").stdout
    _ends_for_good(shop, ended, because="is lost")


def test_a_slot_that_somebody_drops_is_missed_by_copy_and_tail(shop: Shop) -> None:
    """Pitfall 45: a failover before 17 leaves the same behind, a source without the slot."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop)
        shop.sql("source", "select pg_drop_replication_slot('shardmig_shop')")
    _ends_for_good(shop, running.end(), because="does not exist")
    shop.sql("source", "select pg_drop_replication_slot('shardmig_shop')")
    _ends_for_good(shop, shop.run("tail", "--until", "caught-up"), because="does not exist")


def test_a_source_on_another_timeline_is_refused(shop: Shop) -> None:
    """Pitfall 45: after a failover the slot may be there by name and still not have what the shards lack."""
    shop.run("copy").expect(0)
    shop.sql("clients", "update shardmig.migration set source_timeline = source_timeline + 1")
    ended = shop.run("tail").expect(4)
    assert "it failed over" in ended.cause
    assert ended.hint.endswith(BEGIN_AGAIN)


def test_each_level_is_said_once_and_always_shown(
    make_shop: Callable[..., Shop], new_cluster: Callable[..., Cluster]
) -> None:
    """Pitfall 17: long before the limit, with the time left; in progress, in status in both forms, in the journal."""
    shop = make_shop(source=new_cluster(settings=KEEPS_SIX_SEGMENTS))
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop)
        slot = shop.json("status")["slot"]
        for level in ("notice", "warning", "critical"):
            while level not in (slot := shop.json("status")["slot"])["level"]:
                write_wal(shop.urls["source"])
            assert level in slot["warnings"][0]
            running.wait_for(f"{level}: slot shardmig_shop holds")
        assert 96 * 1024 * 1024 == slot["max_slot_wal_keep_size"]
        assert slot["disk_free_bytes"] > 0 < slot["wal_bytes"]
        shown = shop.run("status", "--exit-code").expect(1).stdout
        assert "problem     critical: slot shardmig_shop holds" in shown
        assert "at the present rate it is lost in" in shown
        assert shop.json("status")["slot"]["loss_eta_s"] is not None
    ended = running.end().expect(0)
    for level in ("notice", "warning", "critical"):
        assert 1 == ended.stderr.count(f"{level}: slot"), ended.stderr
    levels = [e["detail"]["level"] for e in shop.json("events")["events"] if e["event"] == "slot_level"]
    assert ["notice", "warning", "critical"] == levels
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_the_slot_of_an_idle_database_moves(shop: Shop, source_cluster: Cluster) -> None:
    """Pitfall 17: others write on the server, nobody in our database, and the slot does not hold their WAL."""
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    running = shop.start("tail").wait_for("following the source")
    with psycopg.connect(source_cluster.url(), autocommit=True) as elsewhere:
        elsewhere.execute("select pg_switch_wal()")
        elsewhere.execute("create table others as select n from generate_series(1, 1000) n")
        elsewhere.execute("drop table others")
        row = elsewhere.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    passed = sql.SQL(
        "select from pg_replication_slots where slot_name = 'shardmig_shop' and confirmed_flush_lsn >= {}"
    ).format(row[0])
    with psycopg.connect(shop.urls["source"], autocommit=True) as source:
        running.wait_until(lambda: source.execute(passed).rowcount, what="a slot that moves")
    running.interrupt().end().expect(130)

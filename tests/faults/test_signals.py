"""Ctrl-C and TERM: once ends in good order with everything saved, twice ends at once, and the next run goes on."""

from __future__ import annotations

import time

import psycopg

from tests.fixtures.fix_faults import copy_held_at, follow, holding, waits_for_a_lock
from tests.fixtures.fix_program import Shop

STOPPING = "stopping: what is in flight is finished and saved"
AT_ONCE_S = 10.0


def test_ctrl_c_during_a_copy_finishes_what_is_in_flight_and_exits_130(shop: Shop) -> None:
    """The chunk in flight is finished, its place is saved, and --resume has less to do."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders") as lock:
        running = copy_held_at(shop).interrupt().wait_for(STOPPING)
        lock.rollback()
        ended = running.end().expect(130)
    assert "stopped while copying; everything done so far is saved" in ended.cause
    assert "shardmig copy --resume" == ended.hint
    assert 0 < shop.one("clients", "select count(*) from shardmig.chunk where done_epoch = 1")
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_second_ctrl_c_ends_a_copy_that_waits_at_once(shop: Shop) -> None:
    """Nothing is waited for, no worker stays behind, and what was not finished is copied again."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop).interrupt().wait_for(STOPPING)
        began = time.monotonic()
        running.interrupt().end(AT_ONCE_S).expect(130)
        assert time.monotonic() - began < AT_ONCE_S
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_term_to_the_whole_group_during_a_copy_exits_143(shop: Shop) -> None:
    """A service manager ends the workers too; that is an end in good order and no failure."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders") as lock:
        running = copy_held_at(shop).terminate().wait_for(STOPPING)
        lock.rollback()
        ended = running.end().expect(143)
    assert "shardmig copy --resume" == ended.hint
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_ctrl_c_ends_the_wait_for_a_slot_and_leaves_none(shop: Shop) -> None:
    """Pitfall 40: an open transaction keeps a new slot waiting for hours; it is named, and the wait can be ended."""
    with psycopg.connect(shop.urls["source"]) as connection:
        connection.execute("update users set note = 'open' where id = 1")
        running = shop.start("copy").wait_for("the slot waits for an open transaction: pid")
        ended = running.interrupt().end(AT_ONCE_S).expect(130)
        assert "stopped while waiting for the slot" in ended.cause
        assert [] == shop.sql("source", "select from pg_replication_slots where database = current_database()")
    shop.run_hint(ended.hint).expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_ctrl_c_ends_a_tail_with_its_result(shop: Shop) -> None:
    """130 for Ctrl-C, 143 for TERM; JSON has what this run has applied, and the slot is free for the next."""
    shop.run("copy").expect(0)
    running = shop.start("-o", "json", "tail").wait_for("following the source")
    shop.sql("source", "update users set note = 'changed' where id = 4")
    running.wait_until(lambda: shop.one("pros", "select note = 'changed' from users where id = 4"))
    found = running.interrupt().end(AT_ONCE_S).expect(130).json
    assert ("interrupted", 1) == (found["status"], found["changes"])
    assert "shardmig tail" in found["next_steps"]
    follow(shop).terminate().end(AT_ONCE_S).expect(143)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_ctrl_c_during_a_verify_exits_130_and_lets_the_tail_go_on(shop: Shop) -> None:
    """Nothing was changed; the barrier is released at once, not when it expires."""
    shop.run("copy").expect(0)
    tail = follow(shop)
    with holding(shop.urls["pros"], "users"):
        running = shop.start("verify")
        running.wait_until(waits_for_a_lock(shop.urls["pros"], "verify"), what="a scan that waits")
        ended = running.interrupt().end(AT_ONCE_S).expect(130)
    assert "stopped" in ended.cause
    assert "shardmig verify" in ended.hint
    assert 0 == shop.one("clients", "select count(*) from shardmig.barrier where released_at is null")
    assert tail.process.poll() is None
    tail.interrupt().end(AT_ONCE_S).expect(130)
    shop.run("verify").expect(0)


def test_ctrl_c_ends_a_verify_whose_own_tail_waits_for_a_lock(shop: Shop) -> None:
    """The tail in its thread cannot be waited for: the process ends without it, and nothing is half done."""
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.sql("source", "update users set note = 'changed'")
    with holding(shop.urls["pros"], "users"):
        running = shop.start("verify")
        running.wait_until(waits_for_a_lock(shop.urls["pros"], ""), what="a tail that waits")
        running.interrupt().end(AT_ONCE_S).expect(130)
    shop.run("verify").expect(0)


def test_ctrl_c_ends_a_command_that_only_reads_at_once_with_its_query(shop: Shop) -> None:
    """A plan that waits has nothing to save: one Ctrl-C ends it and what it asked the server."""
    with holding(shop.urls["source"], "users"):
        running = shop.start("plan")
        running.wait_until(waits_for_a_lock(shop.urls["source"], ""), what="a query that waits")
        ended = running.interrupt().end(AT_ONCE_S).expect(130)
        assert not waits_for_a_lock(shop.urls["source"], "")()
    assert "stopped; nothing was changed" == ended.cause
    assert "run: shardmig plan" == ended.hint

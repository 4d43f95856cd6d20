"""Abort from every phase, also after kills: source and shards are what they were before (pitfall 19)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import LiteralString

import psycopg
import pytest

from fixia_shardmig.cutover.fence import raise_fence, seal_fence
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_faults import copy_held_at, follow, holding
from tests.fixtures.fix_program import Running, Shop

EVERYTHING: LiteralString = """
select 'slot', slot_name::text, plugin::text from pg_replication_slots where database = current_database()
union all select 'publication', pubname, '' from pg_publication
union all select 'subscription', subname, '' from pg_subscription
union all select 'origin', roname, '' from pg_replication_origin
union all select 'event trigger', evtname, '' from pg_event_trigger
union all select 'schema', nspname || coalesce(nspacl::text, '') || nspowner::regrole, obj_description(oid)
  from pg_namespace where nspname !~ '^pg_(toast|temp)'
union all select 'relation', oid::regclass::text, relkind::text || relreplident::text from pg_class
  where relnamespace not in (select oid from pg_namespace where nspname ~ '^pg_' or nspname = 'information_schema')
union all select 'column', attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod) from pg_attribute
  where attnum > 0 and not attisdropped and attrelid >= 16384
  and attrelid not in (select oid from pg_class where relnamespace = 'pg_toast'::regnamespace)
union all select 'trigger', tgrelid::regclass || '.' || tgname, tgenabled::text from pg_trigger where not tgisinternal
union all select 'function', oid::regprocedure::text, '' from pg_proc where oid >= 16384
union all select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
  where connamespace not in (select oid from pg_namespace where nspname ~ '^pg_' or nspname = 'information_schema')
union all select 'type', oid::regtype::text, '' from pg_type where oid >= 16384 and typtype <> 'c'
union all select 'setting', setdatabase::text, array_to_string(setconfig, ' ') from pg_db_role_setting
  where setdatabase = (select oid from pg_database where datname = current_database())
order by 1, 2, 3
"""


def _everything(shop: Shop) -> dict[str, list[tuple[object, ...]]]:
    return {place: shop.sql(place, EVERYTHING) for place in shop.urls}


def _planned(shop: Shop) -> None:
    shop.run("schema", "apply").expect(0)


def _killed_in_the_copy(shop: Shop) -> None:
    _planned(shop)
    with holding(shop.urls["pros"], "orders"):
        copy_held_at(shop).kill()


def _tailing(shop: Shop) -> None:
    shop.run("copy").expect(0)


def _killed_under_a_tail(shop: Shop) -> None:
    _tailing(shop)
    follow(shop).kill()


def _verified(shop: Shop) -> None:
    _tailing(shop)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)


PHASES: dict[str, Callable[[Shop], None]] = {
    "planned": _planned,
    "copying": _killed_in_the_copy,
    "tailing": _killed_under_a_tail,
    "verified": _verified,
}


@pytest.mark.parametrize("phase", PHASES)
def test_an_abort_leaves_source_and_shards_as_they_were(shop: Shop, phase: str) -> None:
    """Pitfall 19: no slot, publication, trigger, origin, schema or function of ours, and one can begin anew."""
    before = _everything(shop)
    PHASES[phase](shop)
    assert phase == shop.json("status")["phase"]
    assert before != _everything(shop)
    shop.run("--yes", "abort", "--drop-targets").expect(0)
    assert before == _everything(shop)
    assert 400 == shop.one("source", "select count(*) from users")
    assert "shardmig plan" in shop.json("--yes", "abort")["next_steps"]
    shop.run("plan").expect(0)


def test_an_abort_behind_the_fence_lets_the_writers_write_again(shop: Shop) -> None:
    """A cutover that died before the switch: the fence goes with everything else, though its seal is on."""
    before = _everything(shop)
    _verified(shop)
    with psycopg.connect(shop.urls["source"], autocommit=True) as source:
        deadline = time.monotonic() + 30
        tables = [TableName("public", name) for name in ("users", "orders")]
        raise_fence(source, tables, migration="shop", owner="died", expires_in_s=600, deadline=deadline)
        shop.sql("clients", "update shardmig.migration set phase = 'fenced'")
        seal_fence(source, migration="shop", owner="died", deadline=deadline)
        with pytest.raises(psycopg.Error, match="shop"):
            source.execute("update users set note = 'refused'")
    shop.run("--yes", "abort", "--drop-targets").expect(0)
    shop.sql("source", "update users set note = 'accepted'")
    assert before == _everything(shop)


def test_an_abort_after_the_switch_is_refused_and_changes_nothing(shop: Shop) -> None:
    """The shards have the writes: an abort would lose what was written since."""
    _verified(shop)
    shop.run("--yes", "cutover", "--max-pause", "30s").expect(0)
    before = _everything(shop)
    ended = shop.run("--yes", "abort", "--drop-targets").expect(4)
    assert "the shards have the writes since the switch" in ended.cause
    assert "shardmig status" == ended.hint
    assert before == _everything(shop)
    assert ("switched", "shards") == (shop.json("status")["phase"], shop.json("status")["writer"])


def test_an_abort_without_drop_targets_keeps_the_data_and_nothing_of_ours(shop: Shop) -> None:
    """The tables stay, our schema goes; a second abort finds nothing to do and drops nobody's tables."""
    source = shop.sql("source", EVERYTHING)
    _verified(shop)
    shop.run("--yes", "abort").expect(0)
    assert source == shop.sql("source", EVERYTHING)
    for shard in ("pros", "clients"):
        assert 200 == shop.one(shard, "select count(*) from users")
        assert 0 == shop.one(shard, "select count(*) from pg_namespace where nspname = 'shardmig'")
    ended = shop.run("--yes", "abort", "--drop-targets").expect(0)
    assert "its tables stay" in ended.stderr
    assert 200 == shop.one("pros", "select count(*) from users")
    ended = shop.run("copy").expect(4)
    assert "is not empty" in ended.stderr


def test_an_abort_that_a_lost_shard_interrupted_is_finished_by_another(shop: Shop) -> None:
    """The journal goes last, so that what is left is still known."""
    before = _everything(shop)
    _tailing(shop)
    right = shop.env["PROS_URL"]
    shop.env["PROS_URL"] = right.rpartition("@")[0] + "@127.0.0.1:1/" + right.rpartition("/")[2]
    ended = shop.run("--yes", "abort", "--drop-targets").expect(75)
    assert "cannot connect" in ended.cause
    assert "shardmig abort" in ended.hint
    shop.env["PROS_URL"] = right
    shop.run("--yes", "abort", "--drop-targets").expect(0)
    assert before == _everything(shop)


def test_left_overs_of_a_run_whose_journal_is_lost_are_named_and_an_abort_removes_them(shop: Shop) -> None:
    """A slot without a journal would keep all WAL for ever: the plan names it, and the abort knows it by its name."""
    before = _everything(shop)
    _killed_in_the_copy(shop)
    for shard in ("pros", "clients"):
        shop.sql(shard, "drop schema shardmig cascade")
        shop.sql(shard, "drop table orders, users, settings")
    codes = {found["code"] for found in shop.json("plan", code=4)["findings"] if found["severity"] == "blocker"}
    assert {"left-over-slot", "left-over-publication"} <= codes
    shop.run("--yes", "abort").expect(0)
    assert before == _everything(shop)
    shop.run("copy").expect(0)


def test_workers_of_a_killed_copy_end_with_it(shop: Shop) -> None:
    """No process of ours and no session stays behind to write into a shard after the abort."""
    _planned(shop)
    with holding(shop.urls["pros"], "orders"):
        running: Running = copy_held_at(shop)
        running.kill()
        shop.run("--yes", "abort").expect(0)
    open_sessions: LiteralString = (
        "select count(*) from pg_stat_activity where application_name like 'shardmig%' and datname = current_database()"
    )
    assert [0, 0] == [shop.one(shard, open_sessions) for shard in ("pros", "clients")]

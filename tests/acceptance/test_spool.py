"""What the program says and refuses when a copy keeps the stream in a spool."""

from __future__ import annotations

from pathlib import Path
from typing import LiteralString

import pytest

from fixia_shardmig.model.lsn import LSN
from tests.fixtures.fix_faults import copy_held_at, holding
from tests.fixtures.fix_program import Shop

MOVED_ON: LiteralString = """
select count(*) from pg_replication_slots
where database = current_database() and confirmed_flush_lsn >= (select value::pg_lsn from settings where id = 78)
"""


@pytest.fixture
def copied(shop: Shop) -> Shop:
    """Give a shop that was copied with a spool, in which a change came meanwhile."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = copy_held_at(shop, "--spool", "kept")
        shop.sql("source", "insert into settings values (77, 'while it was copied')")
        shop.sql("source", "insert into settings values (78, pg_current_wal_insert_lsn())")
        running.wait_until(lambda: shop.one("source", MOVED_ON), what="a slot that moves on")
    running.end().expect(0)
    return shop


def _place(shop: Shop) -> Path:
    return shop.directory / "kept"


def test_status_shows_the_spool_and_the_command_that_reads_it(copied: Shop) -> None:
    """Bytes, first and last LSN, and where it lies; the next step names it."""
    status = copied.json("status")
    text = copied.run("status").expect(0).stdout

    spool = status["spool"]
    assert str(_place(copied)) == spool["directory"]
    assert spool["bytes"] > 0
    assert LSN.parse(spool["first_lsn"]) < LSN.parse(spool["last_lsn"])
    assert f"shardmig tail --spool {_place(copied)}" == status["next_steps"][0]
    assert f"{spool['first_lsn']} to {spool['last_lsn']}, in {_place(copied)}" in text


def test_a_tail_without_the_spool_is_refused_with_the_command_that_reads_it(copied: Shop) -> None:
    """Pitfall 39: the server would silently forward its start; with the spool nothing is missing, and it is used up."""
    for command in (["tail"], ["verify"]):
        refused = copied.run(*command).expect(4)
        assert "the slot was told that all is durable up to" in refused.cause
        assert f"shardmig tail --spool {_place(copied)}" == refused.hint
    copied.run("tail", "--until", "caught-up", "--spool", "kept").expect(0)
    copied.check_nothing_lost()
    copied.run("verify").expect(0)
    copied.run("tail", "--until", "caught-up").expect(0)
    assert [] == list(_place(copied).glob("*/*.spool"))


def test_another_directory_is_refused(copied: Shop) -> None:
    """An empty one cannot stand for what the slot was told."""
    refused = copied.run("tail", "--spool", "elsewhere").expect(4)

    assert "holds no spool" in refused.cause
    assert f"shardmig tail --spool {_place(copied)}" == refused.hint


def test_abort_says_where_the_spool_stays_and_the_next_migration_refuses_it(copied: Shop) -> None:
    """Rows lie in it, so nobody deletes it unasked; it is never taken for the next one's."""
    removed = copied.json("--yes", "abort", "--drop-targets")["removed"]
    assert any(line.startswith(f"the spool stays in {_place(copied)}/shardmig_shop on ") for line in removed)

    refused = copied.run("copy", "--spool", "kept").expect(4)
    assert "holds the spool of an earlier migration" in refused.cause


def test_abort_deletes_the_spool_if_asked(copied: Shop) -> None:
    """Then another migration may use the place."""
    removed = copied.json("--yes", "abort", "--drop-targets", "--drop-spool")["removed"]

    assert f"spool {_place(copied)}/shardmig_shop deleted" in removed
    assert [] == list(_place(copied).iterdir())

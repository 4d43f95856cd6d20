"""kill -9 of a copy that keeps the stream in a spool, under writers: the tail finds everything in spool and slot."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.demo.oracle import Judgement
from fixia_shardmig.demo.writers import Writers
from fixia_shardmig.model.lsn import LSN
from tests.faults.test_kills import SMALL_CHUNKS, WRITES_PER_S, Market, market
from tests.fixtures.fix_places import LiveShop

__all__ = ["market"]

COPY = "copy --resume --jobs 1 --chunk-bytes 16KiB --spool kept"
TAIL = "tail --until caught-up --spool kept"


def confirmed(market: Market) -> LSN:
    """Return up to where the source was told that everything is durable."""
    with psycopg.connect(market.source) as source:
        row = source.execute("select confirmed_flush_lsn::text from pg_replication_slots").fetchone()
        return LSN.parse(row[0]) if row else LSN(0)


def moved_on(market: Market, lsn: LSN) -> bool:
    """Whether the source was told more since."""
    return confirmed(market) > lsn


def test_a_copy_killed_with_its_spool_goes_on_and_the_tail_is_equal(market: Market, tmp_path: Path) -> None:
    """The slot moves on while the copy lasts; after kills both of spool and of slot nothing is missing.

    Pitfall 37 and 39: what the slot was told is in the spool, and a tail without it is refused.
    """
    spool = str(tmp_path / "kept")
    with Writers(market.source, threads=2, transactions_per_s=WRITES_PER_S) as writers:
        for chunks in (1, 20):
            running = market.start("copy", "--resume", "--spool", spool, "--jobs", "1", *SMALL_CHUNKS)
            running.wait_until(partial(market.has_copied, chunks), what=f"{chunks} chunks")
            running.wait_until(partial(moved_on, market, confirmed(market)), what="a slot that moves on")
            running.kill()
        market.run("copy", "--resume", "--spool", spool).expect(0)
        status = market.json("status")["spool"]
        assert LSN.parse(status["last_lsn"]) >= confirmed(market)
        refused = market.run("tail").expect(4)
        writers.pause()
        assert f"shardmig tail --spool {spool}" == refused.hint
        market.run(*refused.hint.removeprefix("shardmig ").split(), "--until", "caught-up").expect(0)
        judgement = market.judge()
        market.run("verify").expect(0)
    assert [] == list((tmp_path / "kept").glob("*/*.spool"))
    assert Judgement(rows=judgement.rows, undecided=judgement.undecided) == judgement


@pytest.mark.parametrize("last", ["spool.synced", "spool.acknowledged"])
def test_a_death_around_each_durable_step_of_the_spool_loses_nothing(live_shop: LiveShop, last: str) -> None:
    """Pitfall 37: a segment is durable before the slot is told of it, and deleted only once it is applied."""
    for place in ("spool.segment_named", "spool.segment_written", "spool.appended:2", last):
        live_shop.dies(COPY, place)
    live_shop.shop.run(*COPY.split()).expect(0)
    live_shop.dies(TAIL, "spool.segment_deleted")
    live_shop.shop.run(*TAIL.split()).expect(0)
    live_shop.ends_well()

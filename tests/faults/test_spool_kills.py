"""kill -9 of a copy that keeps the stream in a spool, under writers: the tail finds everything in spool and slot."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psycopg

from fixia_shardmig.demo.oracle import Judgement
from fixia_shardmig.demo.writers import Writers
from fixia_shardmig.model.lsn import LSN
from tests.faults.test_kills import SMALL_CHUNKS, WRITES_PER_S, Market, market

__all__ = ["market"]


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

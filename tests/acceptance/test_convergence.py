"""A tail that is behind comes near while writers go on at half of its speed, and stays there.

Nothing here is held against a clock of its own choosing: the writers' rate is half of what this machine's tail was
just measured to apply, and a lag counts as small once it has been small for some seconds in a row, whenever that is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from benchmarks.lag import SAMPLE_S, Lag, applied_everywhere
from fixia_shardmig.postgres.sessions import insert_lsn
from tests.fixtures.fix_faults import FOLLOWING
from tests.fixtures.fix_program import Shop

BACKLOG = 8_000
BEHIND = 6_000
"""Changes that wait when the writers begin, so that there is something to catch up with."""

TICK_S = 0.1
STAYS_S = 3.0
DEADLINE_S = 45.0
STOP_S = 10.0

WRITE = """
create procedure write(first bigint, changes bigint) language plpgsql as $$
begin
    for i in first..first + changes - 1 loop
        case
        when i % 200 = 118 then
            update users set kind = case kind when 'pro' then 'client' else 'pro' end where id = 1 + i % 400;
        when i % 10 < 6 then
            insert into orders values (100000 + i, 1 + i % 400, 'thing ' || i);
        when i % 10 = 9 then
            delete from orders where id = 100000 + i - 109;
        else
            update orders set what = 'other thing ' || i where id = 100000 + i - 6;
        end case;
        if i % 5 = 4 then
            commit;
        end if;
    end loop;
end $$
"""
"""Transactions of five changes, each number once: six of ten insert, three update, one deletes; a few move a user."""


class Steady:
    """A writer that keeps to a rate, and never makes up for what it could not do in time."""

    def __init__(self, shop: Shop) -> None:
        """Connect; nothing is written yet."""
        self._connection = psycopg.connect(shop.urls["source"], autocommit=True)
        self._connection.execute(WRITE)
        self._next = 0
        self._stop = threading.Event()

    def write(self, changes: int) -> int:
        """Write so many changes, and return where the WAL ends."""
        self._connection.execute("call write(%s, %s)", (self._next, changes))
        self._next += changes
        row = self._connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        return int(row[0])

    @contextmanager
    def at(self, changes_per_s: float) -> Iterator[threading.Thread]:
        """Write at a rate while the block works."""
        thread = threading.Thread(target=self._run, args=(max(5, int(changes_per_s * TICK_S) // 5 * 5),))
        thread.start()
        try:
            yield thread
        finally:
            self._stop.set()
            thread.join(STOP_S)
            self._connection.close()

    def _run(self, changes: int) -> None:
        next_at = time.monotonic()
        while not self._stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = max(next_at, time.monotonic() - TICK_S) + TICK_S
            self.write(changes)


def rate_of(shop: Shop, writer: Steady) -> float:
    """Return how many changes a second the tail applies of a backlog."""
    end = writer.write(BACKLOG)
    done = shop.json("tail", "--until", f"{end >> 32:X}/{end & 0xFFFFFFFF:X}")
    return float(done["changes"] / done["seconds"])


def test_a_tail_gets_near_writers_at_half_of_its_rate_and_stays_there(shop: Shop) -> None:
    """It catches up while they write; for three seconds in a row nothing that was committed waits for a second."""
    shop.run("copy").expect(0)
    writer = Steady(shop)
    rate = rate_of(shop, writer)
    writer.write(BEHIND)
    running = shop.start("tail")
    lag = Lag()
    with ExitStack() as opened:
        places = ("source", "pros", "clients")
        source, *shards = (opened.enter_context(psycopg.connect(shop.urls[p], autocommit=True)) for p in places)
        thread = opened.enter_context(writer.at(rate / 2))
        running.wait_for(FOLLOWING)
        began = time.monotonic()
        while lag.near_after_s is None or lag.seen[-1][0] - lag.near_after_s < STAYS_S:
            assert thread.is_alive()
            lag_s = lag.look(began, written=insert_lsn(source), applied=applied_everywhere(shards))
            assert lag.seen[-1][0] < DEADLINE_S, f"still {lag_s:.1f} s behind writers at {rate / 2:,.0f} changes/s"
            time.sleep(SAMPLE_S)
        status = shop.json("status")
        assert status["rates"]["changes_per_s"] > 0
        assert thread.is_alive()
    running.wait_until(lambda: shop.json("status")["lag_s"] == 0.0, what="no lag")
    running.interrupt().end().expect(130)
    shop.check_nothing_lost()

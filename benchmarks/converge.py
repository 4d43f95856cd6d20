"""Convergence: a tail that is behind, and writers at half of its rate who go on. How far behind is it after how long?

The lag is measured from outside (`benchmarks/lag.py`), ten times a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import psycopg

from benchmarks import backlog, markdown, ours, tail
from benchmarks.backlog import NARROW, WORKERS
from benchmarks.lag import SAMPLE_S, Lag, applied_everywhere
from benchmarks.processes import END_S, run_apart
from benchmarks.race import say
from benchmarks.servers import Servers, vacuum
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.postgres.sessions import insert_lsn

NAME = "converging"
MEASURED = {"small": 30_000, "full": 240_000}
BEHIND = {"small": 30_000, "full": 120_000}
WRITE_S = {"small": 10, "full": 40}

SETTLE_S_MAX = 120.0

BEHIND_WORKERS = range(WORKERS, 2 * WORKERS)
STEADY_WORKERS = range(2 * WORKERS, 3 * WORKERS)
"""Sessions with rows of their own: what one writes follows from its number."""


def measure(servers: Servers, size: str) -> str:
    """Return the section about convergence."""
    say("converge")
    with ExitStack() as stack:
        stack.callback(servers.source.drop_database, NAME)
        source_url = servers.source.create_database(NAME)
        users = tail.USERS[size]
        backlog.seed(source_url, NARROW, users=users, workers=3 * WORKERS)
        migration = tail.waiting_migration(servers, source_url, NAME, stack)
        rate = _rate(servers, migration, source_url, users=users, changes=MEASURED[size])
        say(f"  applies {rate:,.0f} changes/s of a backlog")
        with ThreadPoolExecutor(2 * WORKERS) as pool:
            return _race_to_the_end(pool, migration, source_url, _Plan(users, BEHIND[size], rate / 2, WRITE_S[size]))


def _rate(servers: Servers, migration: ours.Migration, source_url: str, *, users: int, changes: int) -> float:
    written = backlog.write(source_url, users=users, changes=changes, moves=False)
    servers.calm()
    return written.changes / run_apart(ours.follow, migration, written.end).seconds


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the writers do: so many changes that wait, then so many a second for some seconds."""

    users: int
    behind: int
    changes_per_s: float
    seconds: int


def _race_to_the_end(pool: ThreadPoolExecutor, migration: ours.Migration, source_url: str, plan: _Plan) -> str:
    _written(_write(pool, source_url, BEHIND_WORKERS, plan, plan.behind))
    vacuum(source_url)
    lag = Lag()
    with _running(migration) as alive, ExitStack() as opened:
        source = opened.enter_context(psycopg.connect(source_url, autocommit=True))
        shards = [opened.enter_context(psycopg.connect(u, autocommit=True)) for u in migration.shard_urls.values()]
        behind_bytes = insert_lsn(source) - applied_everywhere(shards)
        began = time.monotonic()
        changes = round(plan.changes_per_s * plan.seconds)
        writers = _write(pool, source_url, STEADY_WORKERS, plan, changes, changes_per_s=plan.changes_per_s)
        while not all(writer.done() for writer in writers):
            alive()
            lag.look(began, written=insert_lsn(source), applied=applied_everywhere(shards))
            time.sleep(SAMPLE_S)
        _written(writers)
        wrote_s, end = time.monotonic() - began, int(insert_lsn(source))
        while applied_everywhere(shards) < end:
            alive()
            if time.monotonic() - began - wrote_s > SETTLE_S_MAX:
                raise ShardmigError(f"not there {SETTLE_S_MAX:.0f} s after the last write", hint="shardmig status")
            time.sleep(SAMPLE_S)
        after_s = time.monotonic() - began - wrote_s
    backlog.check("the tail", backlog.digests(NARROW, source_url), NARROW, *migration.shard_urls.values())
    return _table(lag, plan, written_per_s=changes / wrote_s, behind_bytes=behind_bytes, after_s=after_s)


def _write(
    pool: ThreadPoolExecutor,
    url: str,
    workers: range,
    plan: _Plan,
    changes: int,
    *,
    changes_per_s: float | None = None,
) -> list[Future[None]]:
    """Let sessions write, each its part, in transactions of five."""
    each = plan.users // WORKERS, changes // WORKERS // 5 * 5
    pace = changes_per_s / WORKERS if changes_per_s else None
    return [pool.submit(backlog.write_as, url, worker, *each, changes_per_s=pace) for worker in workers]


def _written(writers: list[Future[None]]) -> None:
    for writer in writers:
        writer.result()


@contextmanager
def _running(migration: ours.Migration) -> Iterator[_Alive]:
    """Let the program tail in a process of its own while the block works."""
    command = [sys.executable, "-m", "fixia_shardmig", "--mapping", str(migration.mapping), "tail"]
    with subprocess.Popen(command, env=os.environ | dict(migration.variables), stderr=subprocess.DEVNULL) as process:
        try:
            yield _Alive(process)
            process.send_signal(signal.SIGINT)
            process.wait(END_S)
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class _Alive:
    """Ends the measurement when the tail has ended."""

    process: subprocess.Popen[bytes]

    def __call__(self) -> None:
        if self.process.poll() is not None:
            raise ShardmigError(f"the tail ended with {self.process.returncode}", hint="shardmig tail says why")


def _table(lag: Lag, plan: _Plan, *, written_per_s: float, behind_bytes: int, after_s: float) -> str:
    near_s = lag.near_after_s
    rows = [
        ("the tail applies, of a backlog", f"{plan.changes_per_s * 2 / 1000:,.1f} thousand changes/s"),
        ("writers keep to", f"{plan.changes_per_s / 1000:,.1f} thousand changes/s, as far as the machine lets them"),
        ("writers wrote", f"{written_per_s / 1000:,.1f} thousand changes/s, for {lag.seen[-1][0]:.0f} s"),
        ("waits when they and the tail begin", f"{plan.behind:,} changes, {behind_bytes / markdown.MEBIBYTE:,.0f} MiB"),
        ("less than a second behind", "not within this time" if near_s is None else f"after {near_s:.1f} s, and on"),
    ]
    if near_s is not None:
        rows.append(
            ("lag from then on: median, 95 of 100, largest", _spread([s for at, s in lag.seen if at >= near_s]))
        )
    rows.append(("everything on the shards after the last write", f"{after_s:.1f} s"))
    return markdown.table(("", ""), rows)


def _spread(lags: list[float]) -> str:
    high = quantiles(lags, n=20)[-1] if len(lags) > 1 else lags[0]
    return f"{median(lags):.2f}, {high:.2f}, {max(lags):.2f} s"

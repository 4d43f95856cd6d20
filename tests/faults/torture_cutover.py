"""kill -9 at random moments of cutover, tail of the way back, rollback and finalize, as writers follow the truth.

    python -m tests.faults.torture --cutover --kills 100 --seed 1

One round is one migration of the small shop, verified when the killing begins: it is cut over, its writes are brought
back, it is rolled back or not, and finalized. Half of the kills come by the clock; the others once the gates are open,
which is when the pause begins. What is run next is what the program would say: the command again, or its `--resume`. In
the end every commit that a customer was answered stands on the right side once, and nothing of ours is anywhere.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.phase import Writer
from tests.fixtures.fix_followers import FollowedShop, begin
from tests.fixtures.fix_program import DEADLINE_S, LAST_WORDS, SHOP, SHOP_MAPPING, Ended, Shop, plain_environment

KILLS_A_ROUND = (12, 20)
SHARES = {"cutover": 0.45, "tail": 0.1, "rollback": 0.35, "finalize": 0.1}
"""How many of a round's kills each part of the way gets, rounded up; those that are left over are the next round's."""

RUNS_A_ROUND_MAX = 80
"""Far beyond what a round's kills ask for; a migration that needs more does not get on."""

CLOCK_S = (0.3, 1.6)
"""From the start of a command to the kill: from its first session to past its end on a quiet machine."""

PAUSE_S = (0.0, 0.7)
"""From the opening of the gates to the kill: fence, drain, switch, and what follows it."""

POLL_S = 0.004
KILLED, DONE, REFUSED, UNFINISHED, TEMPORARY = -9, 0, 4, 1, 75
OPEN: LiteralString = "select count(*) from shardmig.event where event in ('cutover_gates', 'rollback_gates')"
GONE = "has not begun"


class TortureError(Exception):
    """A round that did not end as it must."""


@dataclass
class Round:
    """One migration and what is done to it."""

    shop: FollowedShop
    rng: random.Random
    kills_max: int
    kills: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    _budget: int = 0

    def drive(self, *, back: bool) -> None:
        """Go through the whole way, each command until it has done its work."""
        self._until_done("cutover")
        self.shop.is_written(Writer.SHARDS)
        self._until_done("tail --until caught-up")
        if back:
            self._until_done("rollback")
            self.shop.is_written(Writer.SOURCE)
        self._until_done("finalize --despite-clients")
        self.shop.is_written(Writer.SOURCE if back else Writer.SHARDS)

    def _until_done(self, command: str) -> None:
        """Run a command and its `--resume` by turns, as a refusal leads from the one to the other."""
        pair = (command, f"{command} --resume") if command in {"cutover", "rollback"} else (command, command)
        at, self._budget = 0, math.ceil(self.kills_max * SHARES[command.split(maxsplit=1)[0]])
        while True:
            self.runs += 1
            if self.runs > RUNS_A_ROUND_MAX:
                raise TortureError(f"not done after {RUNS_A_ROUND_MAX} runs")
            ended = self._run(pair[at])
            if ended.code == DONE or GONE in ended.stderr:
                return
            if ended.code not in {KILLED, REFUSED, UNFINISHED, TEMPORARY}:
                raise TortureError(f"{pair[at]}: exit code {ended.code}\n{ended.stderr[-LAST_WORDS:]}")
            at = self.rng.randrange(2) if ended.code == KILLED else 1 - at

    def _run(self, command: str) -> Ended:
        shop = self.shop.shop
        before = self._opened()
        running = shop.start("--yes", *command.split())
        in_pause, clock_s, pause_s = self.rng.random() < 0.5, self.rng.uniform(*CLOCK_S), self.rng.uniform(*PAUSE_S)
        if not self._budget or self.kills.total() >= self.kills_max:
            return running.end()
        if in_pause and command in {"cutover", "rollback"}:
            while running.process.poll() is None and self._opened() == before:
                time.sleep(POLL_S)
            time.sleep(pause_s)
        else:
            deadline = time.monotonic() + clock_s
            while running.process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if running.process.poll() is None:
            self.kills[f"{command.partition(' --despite')[0]} {self._where()}"] += 1
            self._budget -= 1
            running.kill()
        return running.end(DEADLINE_S)

    def _opened(self) -> int:
        try:
            return int(self.shop.shop.one("clients", OPEN))
        except psycopg.errors.UndefinedTable:
            return 0

    def _where(self) -> str:
        try:
            return str(self.shop.shop.one("clients", "select phase from shardmig.migration"))
        except psycopg.errors.UndefinedTable:
            return "the end"


def one_round(clusters: tuple[Cluster, Cluster], seed: int, *, kills_max: int, directory: Path) -> tuple[int, str]:
    """Torture one migration; returns the kills done and a line that tells of it.

    Raises:
        TortureError: A command did not end as it must, or a promise was broken.
    """
    began, rng = time.monotonic(), random.Random(seed)
    shop = Shop(directory, plain_environment(directory), directory / "shop.yaml")
    databases = {"source": clusters[0], "pros": clusters[1], "clients": clusters[1]}
    try:
        for place, cluster in databases.items():
            shop.point(place, cluster.create_database(f"{place}_{seed}"))
        with psycopg.connect(shop.urls["source"], autocommit=True) as connection:
            connection.execute(SHOP.encode())
        with begin(shop, SHOP_MAPPING) as followed:
            tortured = Round(followed, rng, min(kills_max, rng.randint(*KILLS_A_ROUND)))
            back = rng.random() < 0.6
            tortured.drive(back=back)
            followed.stop()
            written = _judge(followed, back=back)
    except AssertionError as error:
        raise TortureError(str(error)) from error
    finally:
        shop.close()
        for place, cluster in databases.items():
            cluster.drop_database(f"{place}_{seed}")
    kills = ", ".join(f"{hit} {times}" for hit, times in sorted(tortured.kills.items()))
    way = "there and back" if back else "there"
    seconds = time.monotonic() - began
    line = f"seed {seed}, {way}: {tortured.kills.total()} kills ({kills}), {tortured.runs} runs, {written}"
    return tortured.kills.total(), f"{line}, {seconds:.0f} s"


def _judge(shop: FollowedShop, *, back: bool) -> str:
    if back:
        shop.source_is_the_truth()
    else:
        shop.shards_are_the_truth()
    left = {place: found for place, found in shop.ours().items() if found}
    if left:
        raise TortureError(f"left behind: {left}")
    source, shards = (shop.ledger.written[side.value] for side in (Writer.SOURCE, Writer.SHARDS))
    return f"{source:,} writes to the source and {shards:,} to the shards as they were answered"


def torture(
    clusters: tuple[Cluster, Cluster], *, kills: int, seed: int, directory: Path, say: Callable[[str], None]
) -> int:
    """Torture migrations until so many kills are done; returns them. A round that fails is told with its seed."""
    done, number = 0, seed
    while done < kills:
        home = directory / f"cutover-{number}"
        home.mkdir()
        try:
            did, line = one_round(clusters, number, kills_max=kills - done, directory=home)
        except TortureError as error:
            raise TortureError(
                f"seed {number} failed: make torture-cutover SEED={number} KILLS={kills - done}\n{error}"
            ) from error
        done += did
        number += 1
        say(f"{done}/{kills} {line}")
    return done

"""kill -9 at random moments of whole migrations under live writers, resumed each time, ended by verify and an oracle.

    python -m tests.faults.torture --kills 200 --seed 1
    python -m tests.faults.torture --cutover --kills 100 --seed 1      from the cutover on: see torture_cutover

One round is one migration: copy, tail with its schema stages, verify. Everything random of a round follows from its
seed (the next round's is one more): options, how many kills, whom they hit, and when. The machine's pace does not, so a
failing round is replayed with the same seed several times. Each round prints one line; the first that fails ends it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil
import psycopg

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.generator import populate
from fixia_shardmig.demo.oracle import judge
from fixia_shardmig.demo.writers import Writers
from tests.faults import torture_cutover
from tests.fixtures.fix_clusters import SHARDS, UNSAFE_BUT_FAST, quick_directory
from tests.fixtures.fix_program import LAST_WORDS, Ended, Program, Running, plain_environment

MAPPING = Path(__file__).resolve().parents[2] / "mappings" / "fixia.yaml"
TEMPLATE = "template_of_torture"
USERS = 60
WRITES_PER_S = 60.0
KILLS_A_ROUND = (5, 12)
RUN_S_MAX = 240.0
"""A busy machine copies a chunk or two under a snapshot that may be a second old, and each has new workers."""

RUNS_A_ROUND_MAX = 60
"""Far beyond what a round's kills ask for; a migration that needs more does not get on."""

MOMENT_S = (0.4, 4.5)
"""From the start of a command to the kill: from before its first session to past its end on a quiet machine."""

MOMENT_OF_A_FORK_S = (0.1, 3.2)
"""The same where a command is a fork, which has read its modules already."""

ORPHANS_S_MAX = 10.0
POLL_S = 0.02
TEMPORARY = 75
VICTIMS = ("driver", "driver", "worker", "group")
FIRST, LAST = "copy", "verify"
NEXT = {"copy": "tail", "tail": LAST}


class TortureError(Exception):
    """A round that did not end as it must."""


@dataclass
class Places:
    """Where the torture takes place: two servers, and a marketplace to copy databases from."""

    source: Cluster
    target: Cluster
    template: str
    anew: bool = True
    """Whether each command begins with the interpreter."""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @contextmanager
    def databases(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Give a marketplace and empty shards, dropped in the end with the slot."""
        number = next(self._numbers)
        source = f"tortured_{number}"
        shards = {shard: f"tortured_{shard}_{number}" for shard in SHARDS}
        try:
            url = self.source.create_database(source, template=self.template)
            yield url, {shard: self.target.create_database(name) for shard, name in shards.items()}
        finally:
            self.source.drop_database(source)
            for name in shards.values():
                self.target.drop_database(name)


@dataclass
class Round:
    """One migration and what is done to it."""

    seed: int
    kills_left: int
    program: Program
    rng: random.Random
    kills: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0

    def drive(self) -> None:
        """Run the migration to its end, command by command, with a kill in each run while there are kills left."""
        command = FIRST
        while True:
            self.runs += 1
            if self.runs > RUNS_A_ROUND_MAX:
                raise TortureError(f"not done after {RUNS_A_ROUND_MAX} runs")
            ended = self._run(command)
            if ended.code == 0:
                if command == LAST:
                    return
                command = NEXT[command]
            elif ended.code != TEMPORARY and ended.code >= 0:
                raise TortureError(f"{command}: exit code {ended.code}\n{ended.stderr[-LAST_WORDS:]}")

    def _arguments(self, command: str) -> list[str]:
        rng = self.rng
        match command:
            case "copy":
                options = ["--resume", "--jobs", str(rng.randint(1, 4))]
                options += ["--chunk-bytes", rng.choice(("16KiB", "64KiB", "256KiB"))]
                return ["copy", *options, "--max-snapshot-age", rng.choice(("1s", "2s", "2h"))]
            case "tail":
                return ["tail", "--until", "caught-up", "--jobs", str(rng.randint(1, 3))]
            case _:
                return [command, "--jobs", str(rng.randint(1, 3))]

    def _run(self, command: str) -> Ended:
        running = self.program.start(*self._arguments(command))
        victim = self.rng.choice(VICTIMS)
        moment_s = self.rng.uniform(*(MOMENT_S if self.program.anew else MOMENT_OF_A_FORK_S))
        if not self.kills_left:
            return running.end(RUN_S_MAX)
        deadline = time.monotonic() + moment_s
        while running.process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if running.process.poll() is None:
            hit = self._kill(running, victim)
            self.kills[f"{command} {hit}"] += 1
            self.kills_left -= 1
        return running.end(RUN_S_MAX)

    def _kill(self, running: Running, victim: str) -> str:
        """Kill, see that nothing outlives its driver, and say who was hit: without workers it is the driver."""
        children = _children(running.process.pid)
        workers = [child for child in children if "spawn_main" in " ".join(_command_of(child))]
        if victim == "worker" and workers:
            _end(self.rng.choice(workers))
            return "worker"
        if victim == "group":
            for child in children:
                _end(child)
        running.kill()
        _, alive = psutil.wait_procs(children, ORPHANS_S_MAX)
        if alive:
            raise TortureError(f"outlived the driver: {[_command_of(process) for process in alive]}")
        return "group" if victim == "group" else "driver"


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _end(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def one_round(places: Places, seed: int, *, kills_max: int, directory: Path) -> tuple[int, str]:
    """Torture one migration; returns the kills done and a line that tells of it.

    Raises:
        TortureError: A command did not end as it must, or the oracle found a row that is not as it must be.
    """
    began = time.monotonic()
    rng = random.Random(seed)
    program = Program(directory, plain_environment(directory), MAPPING, anew=places.anew)
    with places.databases() as (source, shards):
        program.env |= {"PRIMARY_DATABASE_URL": source, **{f"{s.upper()}_DB_URL": url for s, url in shards.items()}}
        tortured = Round(seed, min(kills_max, rng.randint(*KILLS_A_ROUND)), program, rng)
        try:
            with Writers(source, threads=2, seed=seed, transactions_per_s=WRITES_PER_S) as writers:
                tortured.drive()
                writers.stop()
                written = writers.counters().transactions
            program.run("verify").expect(0)
            rows, epochs = _judge(source, shards)
        except AssertionError as error:
            raise TortureError(str(error)) from error
        finally:
            program.close()
    kills = ", ".join(f"{hit} {times}" for hit, times in sorted(tortured.kills.items()))
    seconds = time.monotonic() - began
    line = f"seed {seed}: {tortured.kills.total()} kills ({kills}), {tortured.runs} runs, {epochs} snapshots,"
    return tortured.kills.total(), f"{line} {written:,} transactions, {rows:,} rows as they must be, {seconds:.0f} s"


def _judge(source: str, shards: dict[str, str]) -> tuple[int, int]:
    judgement = judge(source, shards)
    if not judgement.faultless:
        raise TortureError(f"the oracle: {judgement}")
    with psycopg.connect(shards["shared"]) as journal:
        row = journal.execute("select count(*) from shardmig.snapshot_epoch").fetchone()
    return judgement.rows, row[0] if row else 0


def torture(places: Places, *, kills: int, seed: int, directory: Path, say: Callable[[str], None]) -> int:
    """Torture migrations until so many kills are done; returns them. A round that fails is told with its seed."""
    done = 0
    for number in count(seed):
        left = kills - done
        if left <= 0:
            break
        home = directory / str(number)
        home.mkdir()
        try:
            did, line = one_round(places, number, kills_max=left, directory=home)
        except TortureError as error:
            raise TortureError(f"seed {number} failed: make torture SEED={number} KILLS={left}\n{error}") from error
        done += did
        say(f"{done}/{kills} {line}")
    return done


def main() -> int:
    """Read the arguments, make the servers, and torture."""
    about = "kill -9 at random moments of whole migrations"
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=about)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cutover", action="store_true", help="kill from the cutover on")
    given = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with (
        quick_directory() as directory,
        Cluster.create(directory / "source", settings=UNSAFE_BUT_FAST) as source,
        Cluster.create(directory / "target", settings=UNSAFE_BUT_FAST) as target,
    ):
        try:
            if given.cutover:
                clusters = (source, target)
                torture_cutover.torture(clusters, kills=given.kills, seed=given.seed, directory=directory, say=say)
            else:
                populate(source.create_database(TEMPLATE), users=USERS)
                places = Places(source, target, TEMPLATE)
                torture(places, kills=given.kills, seed=given.seed, directory=directory, say=say)
        except (TortureError, torture_cutover.TortureError) as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

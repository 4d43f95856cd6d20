"""Cutover: the pause that clients of a PgBouncer see, beside PgBouncer's own PAUSE, RELOAD, RECONNECT, RESUME.

Each round is a migration of its own under about a thousand transactions a second through three aliases. Within it come
a bare pause, in which nothing is moved, the cutover, and the rollback; all are measured by the same clock, pgbench's:
the longest time between two commits of all clients together. At the end of a round the source has to have every
transaction that pgbench was told is committed, and no client has met an error.
"""

from __future__ import annotations

import itertools
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from benchmarks import backlog, markdown, ours
from benchmarks.backlog import NARROW
from benchmarks.processes import libpq_environment
from benchmarks.race import say
from benchmarks.servers import Servers, program
from benchmarks.tail import waiting_migration
from fixia_shardmig.cutover.pooler_files import databases_ini
from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.demo.pooler import Pooler
from fixia_shardmig.mapping.shard_map import PgBouncer
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.postgres.pgbouncer import Console, await_pauses
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.switching import cut_over, roll_back

USERS = {"small": 800, "full": 2_000}
ROUNDS = {"small": 1, "full": 10}
"""So many of each that `--repeat` asks for: 30 without it."""

RATE_PER_S = 1_000
CLIENTS = 4
"""Of each alias."""

WARM_S = 0.6
AFTER_S = 0.3
MAX_PAUSE_S = 10.0
PAUSE_S_MAX = 10.0
ROLE, PASSWORD = "bench_app", "bench-app"

BARE, FORWARD, BACK = "PgBouncer alone", "cutover", "rollback"
NUMBERS = {"professionals": "random(0, 4)", "clients": "random(5, 8)", "shared": "9"}
"""Which users of each ten live on a shard: `bench.kind_of`, as pgbench's expressions."""

SCRIPT = """
\\set worker random(0, 3)
\\set n 10 * random(1, {last}) + {number}
BEGIN;
INSERT INTO events SELECT gen_random_uuid()::text, id, 'bench', '{{"from": "a client"}}', now() FROM users
    WHERE id = md5('u' || :worker || ':' || :n)::uuid::text;
UPDATE users SET updated_at = now() WHERE id = md5('u' || :worker || ':' || :n)::uuid::text;
COMMIT;
"""


@dataclass(slots=True)
class Windows:
    """When something was done, by the wall clock, and what the pauses in it were."""

    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    results: dict[str, CutoverResult] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Take the time of a block, and of a moment after it, in which the clients go on."""
        began = time.time()
        yield
        time.sleep(AFTER_S)
        self.spans[name] = began, time.time()


@dataclass(frozen=True, slots=True)
class Round:
    """The clients' longest gap in each window, and the steps of what was done."""

    gaps_s: dict[str, float]
    results: dict[str, CutoverResult]
    transactions_per_s: float


def measure(servers: Servers, rounds: int, size: str) -> str:
    """Return the section about the cutover."""
    say("cutover")
    found: list[Round] = []
    with ExitStack() as stack:
        stack.callback(servers.source.drop_database, "seeded")
        seeded = servers.source.create_database("seeded")
        backlog.seed(seeded, NARROW, users=USERS[size])
        for cluster in (servers.source, servers.target):
            _make_role(cluster.url())
        for number in range(rounds * ROUNDS[size]):
            found.append(_round(servers, number, USERS[size]))
            gaps = ", ".join(f"{name} {gap * 1000:.0f} ms" for name, gap in found[-1].gaps_s.items())
            say(f"  {number + 1}: {gaps}; {found[-1].transactions_per_s:,.0f} transactions/s")
    return _section(found)


def _make_role(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = 'bench_app'").rowcount:
            connection.execute("CREATE ROLE bench_app LOGIN SUPERUSER PASSWORD 'bench-app'")


def _round(servers: Servers, number: int, users: int) -> Round:
    with ExitStack() as stack:
        name = f"cut{number}"
        stack.callback(servers.source.drop_database, name)
        source_url = servers.source.create_database(name, template="seeded")
        migration = waiting_migration(servers, source_url, name, stack, apart=False)
        folder = servers.folder / name
        pooler = stack.enter_context(Pooler(folder / "pgbouncer", user=ROLE, password=PASSWORD))
        context = _begin(pooler, migration, source_url)
        load_ = _Load(folder, pooler, users)
        windows = Windows()
        with load_.running():
            time.sleep(WARM_S)
            with windows.of(BARE):
                _bare(context.shard_map.pgbouncers[0])
            for what, move in ((FORWARD, cut_over), (BACK, roll_back)):
                with windows.of(what):
                    windows.results[what] = _done(move(context, max_pause_s=MAX_PAUSE_S))
        commits = load_.commits()
        _check(source_url, users, len(commits))
        gaps = {what: _longest_gap(commits, *span) for what, span in windows.spans.items()}
        return Round(gaps, windows.results, len(commits) / (commits[-1] - commits[0]))


def _begin(pooler: Pooler, migration: ours.Migration, source_url: str) -> Context:
    pooler.claim_port()
    section = PgBouncer(pooler.admin_url, str(pooler.databases_file), {shard: f"bench_{shard}" for shard in NUMBERS})
    aliases = ", ".join(f"{shard}: {alias}" for shard, alias in section.aliases.items())
    text = migration.mapping.read_text("utf-8")
    migration.mapping.write_text(
        f"{text}pgbouncer: {{admin_url: '{section.admin_url}', databases_file: {section.databases_file},"
        f" aliases: {{{aliases}}}}}\n",
        "utf-8",
    )
    pooler.directory.parent.mkdir(exist_ok=True)
    pooler.start(databases_ini("bench", source_url, section))
    context = load(migration.mapping, env=dict(migration.variables))
    with context.journal() as journal:  # comparing is another part's to measure; the last look is the cutover's own
        journal.add_evidence({"verified_at": datetime.now(UTC).isoformat(), "verified_equal": True})
    return context


def _bare(section: PgBouncer) -> None:
    """Do what PgBouncer alone has to: nothing is fenced, drained or moved, and the same server goes on."""
    with Console(section.admin_url) as console:
        console.version()
        pauses = [console.pause(alias) for alias in section.aliases.values()]
        try:
            for pause in pauses:
                pause.send()
            if not await_pauses(pauses, time.monotonic() + PAUSE_S_MAX):
                raise ShardmigError("PgBouncer did not pause", hint="see its log")
            console.reload()
            for alias in section.aliases.values():
                console.reconnect(alias)
        finally:
            for pause in pauses:
                pause.close()
            for alias in section.aliases.values():
                console.resume(alias)


def _done(result: CutoverResult) -> CutoverResult:
    if not result.switched or result.unfinished:
        closed = "; ".join(f"{gate.name}: {gate.detail}" for gate in result.gates if not gate.ok)
        raise ShardmigError(f"not switched: {closed or result.unfinished}", hint="its time says nothing")
    return result


class _Load:
    """A pgbench for each alias, at a rate; it logs the moment of every commit."""

    def __init__(self, folder: Path, pooler: Pooler, users: int) -> None:
        self._folder = folder
        self._pooler = pooler
        self._last = users // backlog.WORKERS // 10 - 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write while the block runs; a client that met an error fails it."""
        processes = {shard: self._start(shard, number) for shard, number in NUMBERS.items()}
        try:
            yield
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGALRM)  # what its own clock would send: it ends in order, with its log
            said = {shard: process.communicate()[1] for shard, process in processes.items()}
        wrong = [f"{shard}: {text.strip()[-500:]}" for shard, text in said.items() if "aborted" in text]
        if wrong:
            raise ShardmigError(f"clients met an error: {'; '.join(wrong)}", hint="its time says nothing")

    def commits(self) -> list[float]:
        """Return the moment of every commit that pgbench was told of, in order."""
        moments: list[float] = []
        for path in self._folder.glob("commits.*"):
            for line in path.read_text().splitlines():
                words = line.split()
                moments.append(int(words[4]) + int(words[5]) / 1e6)
        return sorted(moments)

    def _start(self, shard: str, number: str) -> subprocess.Popen[str]:
        script = self._folder / f"{shard}.sql"
        script.write_text(SCRIPT.format(last=self._last, number=number))
        url = self._pooler.url(f"bench_{shard}")
        command: list[str | Path] = [
            program("pgbench"),
            "-n",
            "-M",
            "simple",
            "-c",
            str(CLIENTS),
            "-T",
            "600",
            "-f",
            script,
        ]
        command += ["-R", str(RATE_PER_S // len(NUMBERS)), "-l", f"--log-prefix=commits.{shard}"]
        return subprocess.Popen(
            command,
            env=libpq_environment(url),
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def _check(source_url: str, users: int, committed: int) -> None:
    """Hold that the source has every transaction a client was told is committed, after there and back."""
    with psycopg.connect(source_url) as connection:
        found = connection.execute("SELECT count(*) FROM events WHERE kind = 'bench'").fetchone()
    if found is None or found[0] != committed:
        raise ShardmigError(f"{committed} committed, {found} found on {users} users' source", hint="a row was lost")


def _longest_gap(commits: list[float], began: float, ended: float) -> float:
    """Return the longest time between two commits that meets a span of time."""
    return max(
        (later - earlier for earlier, later in itertools.pairwise(commits) if later >= began and earlier <= ended),
        default=ended - began,
    )


def _section(rounds: list[Round]) -> str:
    rate = statistics.median(one.transactions_per_s for one in rounds)
    bare = statistics.median(one.gaps_s[BARE] for one in rounds)
    rows = [_row(what, sorted(one.gaps_s[what] for one in rounds), bare) for what in (FORWARD, BACK, BARE)]
    head = ("what", "median, ms", "95 %, ms", "worst, ms", "against PgBouncer alone")
    title = f"{len(rounds)} times there and back, {rate:,.0f} transactions/s, {CLIENTS * len(NUMBERS)} clients"
    return f"#### {title}\n\n{markdown.table(head, rows)}\n{_steps(rounds)}"


def _row(what: str, gaps_s: list[float], bare_s: float) -> tuple[str, ...]:
    median = statistics.median(gaps_s)
    ninety_fifth = gaps_s[min(len(gaps_s) - 1, int(len(gaps_s) * 0.95))]
    figures = (f"{seconds * 1000:.0f}" for seconds in (median, ninety_fifth, gaps_s[-1]))
    return (what, *figures, f"{median / bare_s:.2f}")


def _steps(rounds: list[Round]) -> str:
    """Return the median of each step; those before the pause and behind it are no part of it."""
    lines: list[tuple[str, str, str]] = []
    for what in (FORWARD, BACK):
        taken: dict[str, list[float]] = {}
        for one in rounds:
            for step in one.results[what].steps:
                taken.setdefault(step.name, []).append(step.ms)
        lines += [(what, name, f"{statistics.median(values):.0f}") for name, values in taken.items()]
    return markdown.table(("story", "step", "median, ms"), lines)

"""The cutover through real PgBouncers: clients see a pause and no error, and nobody is left waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from fixia_shardmig.cutover.clients import WAITING, identities
from fixia_shardmig.cutover.cutover import cutover
from fixia_shardmig.cutover.fence import FenceKind, FenceState, fence_state
from fixia_shardmig.cutover.pooler import PauseBlockedError, Poolers
from fixia_shardmig.cutover.pooler_files import listed, rewritten, target_of
from fixia_shardmig.cutover.pooler_gates import around_the_poolers, pooler_gates
from fixia_shardmig.cutover.recover import recover_unfinished, resume_cutover
from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.cutover.sides import open_sides
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.pooler import Pooler
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.places import VARIABLE
from fixia_shardmig.postgres.pgbouncer import Console
from fixia_shardmig.postgres.sessions import session
from tests.fixtures.fix_pgbouncer import ALIASES, begin, section
from tests.integration.cutover.conftest import HOMES, Arena, count, options, run, shard_map_of

ROOT = Path(__file__).parents[3]
INSERT = "INSERT INTO users (user_type, name) VALUES (%s, %s) RETURNING id"


class Client(threading.Thread):
    """An application that only knows the pooler's aliases: inserts users of one kind, and treats no error."""

    def __init__(self, url: str, kind: str) -> None:
        """Keep one connection for all it does, as a pool of connections does."""
        super().__init__(daemon=True)
        self.url, self._kind = url, kind
        self.stopping = threading.Event()
        self.committed: list[tuple[int, str, str]] = []
        self.gap_s = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        try:
            with psycopg.connect(self.url, autocommit=True, prepare_threshold=None) as connection:
                last = time.monotonic()
                while not self.stopping.is_set():
                    name = f"{self._kind}-{len(self.committed)}"
                    row = connection.execute(INSERT, (self._kind, name)).fetchone()
                    assert row is not None
                    self.committed.append((row[0], self._kind, name))
                    now = time.monotonic()
                    self.gap_s, last = max(self.gap_s, now - last), now
                    time.sleep(0.002)
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.failure = error


@contextmanager
def writing(*clients: Client) -> Iterator[None]:
    """Have clients write, and hold afterwards that none of them met an error."""
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
    assert [None] * len(clients) == [client.failure for client in clients]


def cut(arena: Arena, **more: Any) -> CutoverResult:
    """Cut over with a journal session of its own."""
    with arena.journal() as journal:
        return cutover(arena.shard_map, journal, options=options(**more), hands=arena.hands())


@pytest.fixture
def pooler(pooler_of: Callable[..., Pooler]) -> Pooler:
    """Describe a PgBouncer; not started yet."""
    return pooler_of(min_pool_size="0")


@pytest.fixture
def pooled(make_arena: Callable[..., Arena], pooler: Pooler) -> Arena:
    """Give an arena behind a PgBouncer that runs, ready to be cut over."""
    arena = make_arena(pgbouncers=(section(pooler),))
    begin(pooler, arena.shard_map)
    arena.follower.start()
    return arena


@dataclass
class Front:
    """PgBouncers before a source and its shards that hold one table; no migration."""

    shard_map: ShardMap
    poolers: Poolers
    programs: list[Pooler]

    def url(self, shard: str = "clients", number: int = 0) -> str:
        """Return the URL of an alias at one of the poolers."""
        return self.programs[number].url(ALIASES[shard])

    def paused(self) -> list[str]:
        """Return every alias at which clients are made to wait."""
        found: list[str] = []
        for program in self.programs:
            with suppress(TemporaryError), Console(program.admin_url) as console:
                found += [one.name for one in console.databases().values() if one.paused]
        return found


@pytest.fixture(scope="module")
def empty_urls(source_cluster: Cluster, target_cluster: Cluster) -> Iterator[dict[str, str]]:
    """Give an empty source and its empty shards to all tests that only look where an alias leads."""
    names = {"source": source_cluster, **dict.fromkeys(ALIASES, target_cluster)}
    for cluster in names.values():
        cluster.start()
    yield {name: cluster.create_database(f"front_{name}_{os.getpid()}") for name, cluster in names.items()}
    for name, cluster in names.items():
        cluster.drop_database(f"front_{name}_{os.getpid()}")


@pytest.fixture
def front_of(pooler_of: Callable[..., Pooler], empty_urls: dict[str, str]) -> Iterator[Callable[..., Front]]:
    """Return a function (how many, settings) that gives running PgBouncers in front of the source."""
    source_url, shard_urls = empty_urls["source"], {name: empty_urls[name] for name in ALIASES}
    fronts: list[Front] = []

    def make(number: int = 1, **settings: str) -> Front:
        programs = [pooler_of(**{"min_pool_size": "0", **settings}) for _ in range(number)]
        shard_map = shard_map_of(source_url, shard_urls, pgbouncers=tuple(map(section, programs)))
        for program in programs:
            begin(program, shard_map)
        fronts.append(Front(shard_map, Poolers(shard_map), programs))
        return fronts[-1]

    yield make
    for front in fronts:
        front.poolers.close()


def in_time(seconds: float = 10.0) -> float:
    """Return a deadline that many seconds away."""
    return time.monotonic() + seconds


def database_seen_by(url: str) -> str:
    """Return which database a new client reaches, of which server."""
    return "{1} on {0}".format(*run(url, "SELECT inet_server_port(), current_database()")[0])


def leads_to(url: str) -> str:
    """Return the same of a direct URL."""
    target = target_of(url)
    return f"{target.database} on {target.port}"


def test_an_open_transaction_is_named_and_everybody_is_resumed(front_of: Callable[..., Front]) -> None:
    """Pitfall 61: such a PAUSE never returns; by the deadline all is as before, and the client in the way is known."""
    front = front_of()
    with psycopg.connect(front.url("shared"), application_name="nightly job") as client:
        (pid,) = client.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        with pytest.raises(
            PauseBlockedError, match=r"nightly job as app from 127.0.0.1:\d+ in fixia_shared"
        ) as blocked:
            front.poolers.pause(in_time(0.3))
        assert f"pg_terminate_backend({pid})" in blocked.value.hint
        assert [] == front.paused()
        client.execute("SELECT 1")
    assert leads_to(front.shard_map.source.url) == database_seen_by(front.url())


def test_a_dead_pooler_keeps_the_others_from_being_paused(front_of: Callable[..., Front]) -> None:
    """Pitfall 61, several poolers: all or none; the one that is away is named, and nobody waits at the other."""
    front = front_of(2)
    front.poolers.pause(in_time())
    assert sorted([*ALIASES.values()] * 2) == sorted(front.paused())
    assert [] == front.poolers.resume()
    front.programs[1].kill()
    with pytest.raises(TemporaryError, match="cannot reach the admin console"):
        front.poolers.pause(in_time())
    assert [] == front.paused()


def test_clients_that_wait_go_on_at_the_new_server(front_of: Callable[..., Front]) -> None:
    """Pitfalls 61, 62: one with a session, one that logs in meanwhile; neither meets an error, and plans are new."""
    front = front_of()
    with psycopg.connect(front.url(), autocommit=True, prepare_threshold=None) as client, ThreadPoolExecutor(2) as pool:
        client.execute("SELECT 1")
        front.poolers.pause(in_time())
        waiting = pool.submit(lambda: client.execute("SELECT current_database()").fetchone())
        login = pool.submit(database_seen_by, front.url("shared"))
        time.sleep(0.2)
        assert [False, False] == [waiting.done(), login.done()]
        assert [] == front.poolers.repoint("forward")
        shards = front.shard_map.shards
        assert (target_of(shards["clients"].url).database,) == waiting.result(10)
        assert leads_to(shards["shared"].url) == login.result(10)
        assert [] == front.poolers.repoint("back")  # nobody is paused: the same again, and clients are not cut off
        assert (target_of(front.shard_map.source.url).database,) == client.execute(
            "SELECT current_database()"
        ).fetchone()


def test_clients_go_on_at_once_after_a_pause_that_min_pool_size_outlasts(front_of: Callable[..., Front]) -> None:
    """Pitfall 61: every third of a second a login would be made and cut off, and then none for server_login_retry.

    A new query in that time would be an error, and one that waits would wait on.
    """
    front = front_of(min_pool_size="2", server_login_retry="30")
    with psycopg.connect(front.url(), autocommit=True) as client:  # the minimum is kept for users who are there
        client.execute("SELECT 1")
        time.sleep(0.5)
        front.poolers.pause(in_time())
        time.sleep(1.0)
        assert [] == front.poolers.repoint("forward")
        assert leads_to(front.shard_map.shards["clients"].url) == database_seen_by(front.url())
    with Console(front.programs[0].admin_url) as console:
        assert ("0", "0.01") == tuple(console.config()[name] for name in ("min_pool_size", "server_login_retry"))
        assert [] == front.poolers.settle()
        assert ("2", "30") == tuple(console.config()[name] for name in ("min_pool_size", "server_login_retry"))


def test_every_operation_may_be_done_again(front_of: Callable[..., Front]) -> None:
    """Pitfall 64: PAUSE of what is paused, RESUME of what is not, the same file once more."""
    front = front_of()
    for _ in range(2):
        front.poolers.pause(in_time())
    assert [[], []] == [front.poolers.resume() for _ in range(2)]
    assert [[], []] == [front.poolers.repoint("forward") for _ in range(2)]
    with open_sides(front.shard_map) as sides:
        assert [] == front.poolers.probe(identities(sides, "forward"), "forward")
        assert ["not proven"] * 1 == [
            reason.partition(":")[0] for reason in front.poolers.probe(identities(sides, "back"), "forward")
        ]


def test_a_pooler_killed_in_its_pause_reads_the_file_when_it_starts(front_of: Callable[..., Front]) -> None:
    """It has nobody paused any more; the others go on, and what is left to do is said without a password."""
    front = front_of(2)
    front.poolers.pause(in_time())
    front.programs[0].kill()
    (failure,) = front.poolers.repoint("forward")
    assert "not re-pointed" in failure
    assert 'RESUME "fixia_clients"' in failure
    assert "app-secret" not in failure
    clients = leads_to(front.shard_map.shards["clients"].url)
    assert clients == database_seen_by(front.url(number=1))
    front.programs[0].start()
    assert clients == database_seen_by(front.url(number=0))
    assert [] == front.poolers.repoint("forward")


def test_a_mistake_in_the_file_is_found_although_reload_says_nothing(front_of: Callable[..., Front]) -> None:
    """RELOAD answers well even then, so where each alias leads is asked afterwards; nobody is moved."""
    front = front_of()
    front.programs[0].databases_file.write_text("[databases]\nno line at all\n")
    (failure,) = front.poolers.repoint("forward")
    assert "after RELOAD fixia_" in failure
    assert leads_to(front.shard_map.source.url) == database_seen_by(front.url())


def closed(front: Front, max_pause_s: float = 5.0) -> dict[str, str]:
    """Return the gates that are closed, with what they say."""
    with open_sides(front.shard_map) as sides:
        return {
            gate.name: gate.detail for gate in pooler_gates(sides, "forward", max_pause_s=max_pause_s) if not gate.ok
        }


def test_what_would_turn_a_pause_into_errors_closes_a_gate(front_of: Callable[..., Front]) -> None:
    """Pitfall 61: session pooling, a long wait after a login that failed, clients that are given up meanwhile."""
    front = front_of(pool_mode="session", server_login_retry="15", query_wait_timeout="3", query_timeout="2")
    found = closed(front)
    assert {"pooler_settings"} == set(found)
    for reason in (
        "server_login_retry is 15 s, more than 1",
        "query_wait_timeout is 3 s, not more than --max-pause 5 s",
        "query_timeout is 2 s",
        "fixia_clients is in session pooling",
    ):
        assert reason in found["pooler_settings"]


def test_aliases_that_are_not_ours_close_a_gate(front_of: Callable[..., Front]) -> None:
    """A line that is missing, one that somebody has paused, one that leads elsewhere; all good leaves no trace."""
    front = front_of()
    file = front.programs[0].databases_file
    before = file.read_text()
    assert {} == closed(front)
    assert before == file.read_text()
    with Console(front.programs[0].admin_url) as console:
        console.run("PAUSE fixia_clients")
        assert "fixia_clients is paused by somebody" in closed(front)["pooler_aliases"]
        console.resume("fixia_clients")
        file.write_text(before.replace("fixia_clients =", "other ="))
        assert "has no line for fixia_clients" in closed(front)["pooler_aliases"]
        console.reload()
        assert "there is no database fixia_clients" in closed(front)["pooler_aliases"]
        elsewhere = target_of(front.shard_map.shards["clients"].url)
        file.write_text(rewritten(before, {"fixia_clients": elsewhere}))
        console.reload()
        assert f"fixia_clients leads to {elsewhere.database} on" in closed(front)["pooler_reach"]


def test_a_shard_that_pgbouncer_cannot_log_in_to_closes_a_gate(
    front_of: Callable[..., Front], target_cluster: Cluster
) -> None:
    """Found before anybody waits, through PgBouncer itself: its own host and its own passwords decide."""
    front = front_of()
    clients = front.shard_map.shards["clients"].url
    with psycopg.connect(target_cluster.url(), autocommit=True) as connection:
        database = sql.Identifier(target_of(clients).database)
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(database))
        connection.execute("ALTER ROLE app NOSUPERUSER")
        try:
            assert "no query gets through shardmig_probe_clients" in closed(front)["pooler_reach"]
        finally:
            connection.execute("ALTER ROLE app SUPERUSER")
    assert sorted(ALIASES.values()) == sorted(listed(front.programs[0].databases_file.read_text()))


def test_clients_around_the_pooler_are_named(front_of: Callable[..., Front]) -> None:
    """Pitfall 71: for information, who will meet the fence and not a pause; the pooler's own sessions are not in it."""
    front = front_of()
    source_url = front.shard_map.source.url
    with psycopg.connect(source_url, application_name="old cron"), psycopg.connect(front.url()) as pooled:
        pooled.execute("SELECT 1")
        with open_sides(front.shard_map) as sides:
            assert "old cron as postgres from 127.0.0.1 (1)" == around_the_poolers(sides).detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"username": "nobody_known"}, "does not know this user with this password"),
        ({"database": "fixia_clients"}, "is a database and not PgBouncer's admin console"),
        ({"port": 1}, "cannot reach the admin console"),
    ],
)
def test_a_console_that_does_not_answer_is_explained(
    front_of: Callable[..., Front], change: dict[str, Any], message: str
) -> None:
    """Each with what to do next, and no password."""
    front = front_of()
    url = make_url(front.programs[0].admin_url).set(**change).render_as_string(hide_password=False)
    with Console(url) as console, pytest.raises(ShardmigError, match=message) as refused:
        console.version()
    assert refused.value.hint
    assert "app-secret" not in str(refused.value)


def test_a_server_that_is_no_pooler_is_recognized(empty_urls: dict[str, str]) -> None:
    """The port of PostgreSQL itself."""
    with Console(empty_urls["source"]) as console, pytest.raises(RefusedError, match="not PgBouncer's admin console"):
        console.version()


def test_clients_of_the_pooler_see_a_pause_and_no_error(pooled: Arena, pooler: Pooler) -> None:
    """Pitfalls 61, 62: they keep their connections, and each write is on its home shard exactly once."""
    clients = [Client(pooler.url(ALIASES[home]), kind) for kind, home in HOMES.items()]
    with writing(*clients):
        time.sleep(0.3)
        result = cut(pooled)
        time.sleep(0.3)
    assert (True, "") == (result.switched, result.unfinished)
    assert ["prepare", "pause", "fence"] == [step.name for step in result.steps][2:5]
    assert ["repoint", "probe", "subscriptions", "slot"] == [step.name for step in result.steps][-4:]
    expected = sorted(row for client in clients for row in client.committed)
    found = sorted(
        row
        for name, url in pooled.shard_urls.items()
        for row in run(url, "SELECT id, user_type, name FROM users WHERE id > 30")
        if HOMES[row[1]] == name
    )
    assert expected == found
    assert len(found) + 30 == sum(count(url, "users") for url in pooled.shard_urls.values())


def killed(arena: Arena, place: str, *, doing: str = "cutover") -> None:
    """Have an operator's process cut over, or finish, and die at a named place as by kill -9."""
    urls = {
        "source": arena.source_url,
        "shards": arena.shard_urls,
        "poolers": [(one.admin_url, one.databases_file, dict(one.aliases)) for one in arena.shard_map.pgbouncers],
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.cutover.killed_operator", doing, "20", "5", json.dumps(urls)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (-signal.SIGKILL, "") == (done.returncode, done.stderr)


def await_phase(arena: Arena, phase: Phase, *, waiting: bool) -> None:
    """Wait until the journal is as somebody else is to make it."""
    deadline = in_time()
    with arena.journal() as journal:
        while (phase, waiting) != ((found := journal.get()).phase, bool(found.evidence.get(WAITING))):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def await_slots_gone(arena: Arena) -> None:
    """Wait until no slot of the way back is left on the shards, where it would hold WAL."""
    deadline = in_time()
    query = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'shardmig_arena_%'"
    while run(arena.shard_urls["shared"], query):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_clients_of_a_killed_operator_go_on_at_the_source_with_nobody_at_hand(pooled: Arena, pooler: Pooler) -> None:
    """Pitfall 72: a fence expires, a PAUSE does not; so a process of its own outlives the operator and undoes."""
    front = Front(pooled.shard_map, Poolers(pooled.shard_map), [pooler])
    for place in ("pooler.noted", "pooler.paused"):
        killed(pooled, place)
        await_phase(pooled, Phase.VERIFIED, waiting=False)
        assert [] == front.paused()
        assert leads_to(pooled.source_url) == database_seen_by(front.url())
    client = Client(front.url(), "client")
    with writing(client):
        killed(pooled, "cutover.way_back_begun")
        await_phase(pooled, Phase.TAILING, waiting=False)
        time.sleep(0.2)
    assert client.committed
    await_slots_gone(pooled)
    assert leads_to(pooled.source_url) == database_seen_by(front.url())


def test_a_cutover_killed_while_it_re_points_is_finished_without_an_error(pooled: Arena, pooler: Pooler) -> None:
    """Pitfall 64: killed in each step behind the switch, one after the other; the same clients wait all the while."""
    client = Client(pooler.url(ALIASES["clients"]), "client")
    with writing(client):
        killed(pooled, "pooler.file_written")
        for place in ("pooler.reloaded", "pooler.repointed", "pooler.resumed"):
            assert Phase.SWITCHED is pooled.phase()
            killed(pooled, place, doing="resume")
        with pooled.journal() as journal:
            result = resume_cutover(pooled.shard_map, journal, options=options(), hands=pooled.hands())
        written = len(client.committed)
        time.sleep(0.2)
    assert (True, "", True) == (result.switched, result.unfinished, len(client.committed) > written)
    assert leads_to(pooled.shard_urls["clients"]) == database_seen_by(client.url)
    await_phase(pooled, Phase.SWITCHED, waiting=False)
    rows = run(pooled.shard_urls["clients"], "SELECT id, user_type, name FROM users WHERE id > 30 ORDER BY id")
    assert sorted(client.committed) == rows


def test_a_client_around_the_pooler_gets_the_fences_clear_error(pooled: Arena, pooler: Pooler) -> None:
    """Pitfalls 63, 71: paused behind the fence, moved after the switch; through the pooler the same write passes."""

    def around() -> None:
        with pytest.raises(psycopg.Error, match="are paused"):
            pooled.source("INSERT INTO users (user_type) VALUES ('client')")

    with pooled.journal() as journal:
        cutover(pooled.shard_map, journal, options=options(), hands=pooled.hands(on_drained=around))
    with pytest.raises(psycopg.Error, match="have moved to the shards"):
        pooled.source("INSERT INTO users (user_type) VALUES ('client')")
    run(pooler.url(ALIASES["clients"]), "INSERT INTO users (user_type) VALUES ('client')")


def test_an_open_transaction_at_the_pooler_leaves_nothing_fenced(pooled: Arena, pooler: Pooler) -> None:
    """Pitfall 60: PAUSE comes first and holds no lock that new writers queue behind; who it was is told.

    A trigger whose table the transaction reads stays for the next command to drop; it lets everything through.
    """
    with psycopg.connect(pooler.url(ALIASES["shared"]), application_name="report") as client:
        client.execute("SELECT count(*) FROM users")
        with pytest.raises(PauseBlockedError, match="report as app") as blocked:
            cut(pooled, max_pause_s=2.0)
        assert "pg_terminate_backend" in blocked.value.hint
        with session(pooled.shard_map.source.url, "test") as source:
            assert not fence_state(source).refuses
    run(pooler.url(ALIASES["clients"]), "INSERT INTO users (user_type) VALUES ('client')")
    assert Phase.VERIFIED is pooled.phase()
    with pooled.journal() as journal, session(pooled.shard_map.source.url, "test") as source:
        recover_unfinished(pooled.shard_map, journal, source)
        assert FenceState(FenceKind.NONE) == fence_state(source)

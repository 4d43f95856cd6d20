"""What happens outside the program: lines that break in every way, and servers that stop, refuse, cancel and end.

Each fault comes while writers write, in the middle of the copy, of the building of indexes and of the tail, at a moment
that a lock of the test's keeps. Then the command that the hint names is run exactly as it stands there, until all is
done, and verify and a comparison of our own judge. A fault need not end the program; what ends it must be exit 75.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_clusters import UNSAFE_BUT_FAST
from tests.fixtures.fix_faults import copy_held_at, follow, holding, waits_for_a_lock
from tests.fixtures.fix_program import Ended, Running, Shop
from tests.fixtures.fix_proxy import Proxy
from tests.fixtures.fix_shop_writers import ShopWriters

SILENCE_S = "2"
NOTICED_S = 75.0
"""Four tries of a chunk, each with a silence, two looks and two questions of two seconds."""

RUNS_MAX = 5
CONNECTIONS = 40
SLOW_BYTES_PER_S = 150_000.0
COMMAND = re.compile(r"shardmig ([a-z]+(?: --[a-z-]+)*)")
OURS = "select {}(pid) from pg_stat_activity where application_name like 'shardmig %' and datname = current_database()"


@dataclass
class Case:
    """A shop, one of whose places is on a server of this test's, behind a proxy."""

    shop: Shop
    place: str
    cluster: Cluster
    proxy: Proxy
    crowd: ExitStack

    @property
    def url(self) -> str:
        """Return the direct URL of the place."""
        return self.shop.urls[self.place]


@pytest.fixture(scope="module")
def fragile_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """Give a server of few connections that tests may crash."""
    settings = {**UNSAFE_BUT_FAST, "max_connections": str(CONNECTIONS)}
    with Cluster.create(servers_directory / "fragile-out", settings=settings) as cluster:
        yield cluster


@pytest.fixture
def case_at(
    make_shop: Callable[..., Shop], fragile_cluster: Cluster, proxy_to: Callable[[str], Proxy]
) -> Iterator[Callable[[str], Case]]:
    """Return a function that gives a shop with `source` or `pros` on the fragile server."""
    with ExitStack() as crowd:

        def make(place: str) -> Case:
            shop = make_shop(**{place: fragile_cluster})
            proxy = proxy_to(shop.urls[place])
            shop.env |= {f"{place.upper()}_URL": proxy.url, "SHARDMIG_SILENCE_S": SILENCE_S}
            return Case(shop, place, fragile_cluster, proxy, crowd)

        yield make
    fragile_cluster.start()


# the moments


@contextmanager
def _in_copy(shop: Shop) -> Iterator[Running]:
    """A chunk's writer waits, its reader has rows for it."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        yield copy_held_at(shop, "--chunk-bytes", "64KiB")


@contextmanager
def _in_indexes(shop: Shop) -> Iterator[Running]:
    """CREATE INDEX waits; the lock lets changes through, so that the catch-up before it does not wait."""
    shop.run("copy", "--jobs", "1").expect(0)
    with holding(shop.urls["pros"], "orders", mode="row exclusive"):
        running = shop.start("tail")
        yield running.wait_until(waits_for_a_lock(shop.urls["pros"], ""), what="an index that waits")


@contextmanager
def _in_tail(shop: Shop) -> Iterator[Running]:
    """A batch waits to be applied."""
    shop.run("copy", "--jobs", "1").expect(0)
    running = follow(shop)
    with holding(shop.urls["pros"], "users"):
        shop.sql("source", "update users set note = 'waits' where id in (2, 4, 6)")
        yield running.wait_until(waits_for_a_lock(shop.urls["pros"], "tail pros"), what="an applier that waits")


PHASES = {"copy": _in_copy, "indexes": _in_indexes, "tail": _in_tail}

# the faults: each breaks something, and says how it is mended


def _crowd(case: Case) -> None:
    """Take every connection that is left, those for superusers too."""
    for _ in range(CONNECTIONS):
        try:
            case.crowd.callback(psycopg.connect(case.cluster.url()).close)
        except psycopg.OperationalError:
            return


def _restart(case: Case) -> None:
    case.cluster.stop("immediate")
    case.cluster.start()


def _signal_ours(case: Case, function: str) -> None:
    with psycopg.connect(case.url, autocommit=True) as connection:
        connection.execute(OURS.format(function).encode())


FAULTS: dict[str, Callable[[Case], None]] = {
    "cut": lambda case: case.proxy.cut(),
    "reset": lambda case: case.proxy.reset(),
    "stall": lambda case: case.proxy.stall(),
    "half_open": lambda case: case.proxy.half_open(),
    "slow": lambda case: case.proxy.slow(SLOW_BYTES_PER_S),
    "stop": lambda case: case.cluster.stop("immediate"),
    "restart": _restart,
    "connection_limit": _crowd,
    "cancel": lambda case: _signal_ours(case, "pg_cancel_backend"),
    "terminate": lambda case: _signal_ours(case, "pg_terminate_backend"),
}

PLACES = {
    "cut": ("source", "pros", "source"),
    "reset": ("pros", "source", "pros"),
    "stall": ("pros", "source", "source"),
    "half_open": ("source", "pros", "pros"),
    "slow": ("source", "pros", "source"),
    "stop": ("source", "pros", "pros"),
    "restart": ("pros", "source", "source"),
    "connection_limit": ("pros", "source", "pros"),
    "cancel": ("source", "pros", "pros"),
    "terminate": ("source", "pros", "source"),
}
"""Of each fault: where it happens during copy, indexes and tail."""

SURVIVABLE = frozenset({"slow", "restart", "connection_limit", "cancel", "terminate"})
"""After these a run may go on, if it had nothing under way there; all others last until they are mended."""

CASES = [(phase, fault, place) for fault, places in PLACES.items() for phase, place in zip(PHASES, places, strict=True)]


def _mend(case: Case) -> None:
    """Make everything sound again."""
    case.crowd.close()
    case.cluster.start()
    case.proxy.heal()


def _is_marked(case: Case, number: int) -> bool:
    """Whether a row written just now is on a shard; it cannot be told while a server is away."""
    try:
        with psycopg.connect(case.shop.urls["source"], connect_timeout=2, autocommit=True) as source:
            source.execute("insert into settings values (%s, 'mark') on conflict do nothing", (number,))
        with psycopg.connect(case.shop.urls["pros"], connect_timeout=2) as pros:
            return pros.execute("select from settings where id = %s", (number,)).rowcount > 0
    except psycopg.OperationalError:
        return False


def _end_or_go_on(case: Case, running: Running, *, number: int) -> Ended:
    """Return the end of a run; one that goes on applying changes is asked to end."""
    deadline = time.monotonic() + NOTICED_S
    while running.process.poll() is None and time.monotonic() < deadline:
        if "following the source" in running.stderr and _is_marked(case, number):
            running.interrupt()
            break
        time.sleep(0.1)
    return running.end(NOTICED_S)


def _resume(case: Case, ended: Ended) -> None:
    """Run what each hint says until no run ends with 75; nothing may end in another way."""
    for number in range(RUNS_MAX):
        assert ended.code in {0, 75, 130}, ended.stderr
        if ended.code != 75:
            return
        assert ended.cause
        command = COMMAND.search(ended.hint)
        assert command, ended.hint
        ended = _end_or_go_on(case, case.shop.start(*command[1].split()), number=9001 + number)
    raise AssertionError(f"{RUNS_MAX} runs are not enough\n{ended.stderr}")


@pytest.mark.parametrize(("phase", "fault", "place"), CASES, ids=["-".join(one) for one in CASES])
def test_a_fault_from_outside_costs_a_repeat_and_no_row(
    case_at: Callable[[str], Case], phase: str, fault: str, place: str
) -> None:
    """Pitfalls 7, 37, 39, 41: whatever the line or the server does, the hint leads to shards that equal the source."""
    case = case_at(place)
    shop = case.shop
    with ShopWriters(shop.urls["source"]) as writers:
        with PHASES[phase](shop) as running:
            FAULTS[fault](case)
        ended = _end_or_go_on(case, running, number=9000)
        assert 75 == ended.code or fault in SURVIVABLE, ended.stderr
        _mend(case)
        _resume(case, ended)
        writers.stop()
    assert writers.written > 0
    if shop.one("clients", "select phase from shardmig.migration") == "copying":
        shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()

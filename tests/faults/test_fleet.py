"""A copy by the workers of a Dask cluster: some die, the scheduler goes, and no row is lost or there twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import pytest

from fixia_shardmig import __version__
from fixia_shardmig.copy import fleet as fleet_module
from fixia_shardmig.copy.fleet import fleet_executor
from fixia_shardmig.copy.worker import ChunkTask, copy_chunk
from fixia_shardmig.model.errors import TemporaryError
from tests.fixtures.fix_faults import holding, waits_for_a_lock
from tests.fixtures.fix_fleet import LOOPBACK, FleetOfWorkers
from tests.fixtures.fix_program import Running, Shop, password_of

SESSIONS: LiteralString = (
    "select count(*) from pg_stat_activity where datname = current_database()"
    " and application_name like 'shardmig copy%'"
)


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged(shop: Shop, tmp_path: Path) -> Iterator[None]:
    """After each test, no password is in anything that Dask wrote at its most talkative."""
    yield
    log = FleetOfWorkers(tmp_path, 0).log
    assert [] == [place for place, url in shop.urls.items() if password_of(url) in log]


def test_dask_logs_a_chunk_that_failed_without_a_password(shop: Shop, fleet: FleetOfWorkers) -> None:
    """What failed is written by its worker, and our tasks carry URLs; the operator reads the server's cause."""
    shop.run("schema", "apply").expect(0)
    shop.sql("pros", "drop table orders")
    ended = shop.run("copy", "--resume", *fleet.executor).expect(1)
    assert 'relation "public.orders" does not exist' in ended.cause
    assert "Compute Failed" in fleet.log
    assert [] == [place for place, url in shop.urls.items() if password_of(url) in fleet.log]


def test_idle_workers_keep_no_session_when_the_copy_has_ended(shop: Shop, fleet: FleetOfWorkers) -> None:
    """Pitfall 42: a session that waits for a next chunk under its old snapshot would hold vacuum back."""
    shop.run("copy", *fleet.executor).expect(0)
    assert [None] * 3 == [worker.poll() for worker in fleet.processes[1:]]
    assert [0, 0] == [shop.one(place, SESSIONS) for place in ("source", "pros")]


def test_a_copy_goes_on_after_its_scheduler_was_killed(shop: Shop, fleet: FleetOfWorkers) -> None:
    """The copy ends as something temporary, and --resume finds what was done by workers nobody waits for."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        running = _held(shop, fleet)
        fleet.processes[0].kill()
        ended = running.end().expect(75)
    assert "the Dask scheduler is gone" == ended.cause
    assert "start it again, then run: shardmig copy --resume" == ended.hint
    fleet.processes[0].wait()
    fleet.start_scheduler()
    fleet.start_worker()
    shop.run("copy", "--resume", *fleet.executor).expect(0)
    _nothing_lost(shop)


@pytest.mark.filterwarnings("ignore:coroutine 'Future._result' was never awaited:RuntimeWarning")  # of Dask's client
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_fleet_that_is_no_longer_there_ends_the_wait(
    scheduler: FleetOfWorkers, monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    """Without a worker, or with a scheduler that has gone silent, a chunk would be waited for without end."""
    monkeypatch.setattr(fleet_module, "NO_WORKER_S_MAX", 2.0)
    monkeypatch.setattr(fleet_module, "ASK_S_MAX", 1.0)
    worker = scheduler.start_worker()
    with fleet_executor(f"{LOOPBACK}:{scheduler.port}") as executor:
        (worker if end == signal.SIGKILL else scheduler.processes[0]).send_signal(end)
        waited_for = executor.submit(
            copy_chunk, ChunkTask(1, "t", 1, "", "", "", "", binary=True, routed=True, writes=())
        )
        error = waited_for.exception(timeout=30.0)
    assert isinstance(error, TemporaryError)
    assert "the Dask scheduler shows no worker any more" == error.message


def test_ctrl_c_finishes_what_the_fleet_has_in_hand(shop: Shop, fleet: FleetOfWorkers) -> None:
    """The chunks that were handed out are copied and recorded; exit code 130, and --resume copies the rest here."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders") as lock:
        running = _held(shop, fleet).interrupt().wait_for("stopping: what is in flight is finished")
        lock.rollback()
        ended = running.end().expect(130)
    assert "shardmig copy --resume" == ended.hint
    assert 0 < shop.one("clients", "select count(*) from shardmig.chunk where done_epoch = 1")
    assert 0 == shop.one("source", SESSIONS)
    shop.run("copy", "--resume").expect(0)
    _nothing_lost(shop)


def test_a_worker_of_another_version_is_refused_before_anything_is_read(
    shop: Shop, scheduler: FleetOfWorkers, tmp_path: Path
) -> None:
    """What a chunk means may change from version to version; the refusal names the worker and the way forward."""
    other = tmp_path / "other_version.py"
    other.write_text("import fixia_shardmig\nfixia_shardmig.__version__ = '0.0.1'\n")
    scheduler.start_worker("--preload", str(other))
    ended = shop.run("copy", *scheduler.executor).expect(4)
    assert f"has shardmig 0.0.1, this is {__version__}" in ended.cause
    assert ended.hint.startswith(f"pip install 'fixia-shardmig[dask]=={__version__}'")
    assert 0 == shop.one("source", "select count(*) from pg_replication_slots where database = current_database()")


def test_a_worker_with_several_threads_is_refused(shop: Shop, scheduler: FleetOfWorkers) -> None:
    """Sessions belong to a process; threads of one would wait for each other and look busy."""
    scheduler.start_worker("--nthreads", "2")
    ended = shop.run("copy", *scheduler.executor).expect(4)
    assert "has several threads" in ended.cause
    assert "start it with dask worker --nthreads 1" == ended.hint


def test_a_scheduler_without_workers_is_refused(shop: Shop, scheduler: FleetOfWorkers) -> None:
    """Nothing would ever be copied, while the snapshot holds vacuum back."""
    ended = shop.run("copy", *scheduler.executor).expect(4)
    assert "the Dask scheduler has no worker" == ended.cause


def test_a_scheduler_that_does_not_answer_is_temporary(shop: Shop) -> None:
    """Port 1 of this host has no listener."""
    ended = shop.run("copy", "--executor", "dask:127.0.0.1:1").expect(75)
    assert "the Dask scheduler 127.0.0.1:1 does not answer" == ended.cause
    assert "start it, then run: shardmig copy --resume" == ended.hint


@pytest.mark.parametrize("executor", ["dask", "dask:host", "dask:host:0", "dask:host:65536", "ray:h:1", "dask:u@h:1"])
def test_an_executor_that_is_none_is_a_mistake_in_the_command(shop: Shop, executor: str) -> None:
    """Exit code 2, before any server is asked."""
    assert "neither local nor a scheduler's address" in shop.run("copy", "--executor", executor).expect(2).stderr


def _held(shop: Shop, fleet: FleetOfWorkers) -> Running:
    """Start a copy whose writer waits for a lock on a table of pros."""
    running = shop.start("copy", "--resume", *fleet.executor)
    return running.wait_until(waits_for_a_lock(shop.urls["pros"], "copy writer pros"), what="a writer that waits")


def _nothing_lost(shop: Shop) -> None:
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()

"""Our own PostgreSQL servers start, crash, come back, and never outlive us."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster, find_binaries
from fixia_shardmig.model.errors import RefusedError

DEADLINE_S = 30.0


def value(url: str, statement: str) -> object:
    """Run one statement and give its only value."""
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("major", sorted(find_binaries()))
def test_every_installed_version_serves_logical_decoding(
    clusters_by_major: Callable[[int], Cluster], major: int
) -> None:
    """Each version found starts, is that version, and is set up as the source of a migration."""
    url = clusters_by_major(major).url()
    assert major == int(str(value(url, "show server_version_num"))) // 10000
    assert "logical" == value(url, "show wal_level")
    assert "UTF8" == value(url, "show server_encoding")
    assert "UTC" == value(url, "show timezone")


def test_a_version_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    """The error names what was asked for and what is there."""
    with pytest.raises(RefusedError, match=r"no PostgreSQL 9 is installed here \(found: .*\d"):
        Cluster.create(tmp_path, major=9)


def test_a_crash_keeps_what_was_committed(new_cluster: Callable[..., Cluster]) -> None:
    """After SIGKILL to all its processes, the server recovers on the same URL with the committed row."""
    cluster = new_cluster()
    url = cluster.create_database("crash")
    with psycopg.connect(url) as connection:
        connection.execute("create table t as select 42 as answer")
    cluster.kill()
    assert not cluster.running
    cluster.start()
    assert 42 == value(url, "select answer from t")
    assert "automatic recovery" in cluster.log_file.read_text()


def test_a_restart_takes_new_settings_and_keeps_the_url(new_cluster: Callable[..., Cluster]) -> None:
    """`settings` is read again at each start; quotes in a value survive."""
    cluster = new_cluster()
    url = cluster.url()
    cluster.settings["cluster_name"] = "it's"
    cluster.restart()
    assert "it's" == value(url, "show cluster_name")


def test_a_wrong_password_is_refused(source_cluster: Cluster) -> None:
    """Authentication is real, so that tests of wrong credentials mean something."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(source_cluster.url(password="wrong"))


def test_the_password_is_not_in_the_repr(source_cluster: Cluster) -> None:
    """A cluster may be logged; its URL may not."""
    assert source_cluster.password not in repr(source_cluster)


def test_a_port_that_was_given_and_is_taken_is_an_error(new_cluster: Callable[..., Cluster]) -> None:
    """A fixed port is never exchanged for another one behind the caller's back."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Exception, match=f"{port} is taken"):
            new_cluster(port=port)


def test_stopping_twice_is_nothing(new_cluster: Callable[..., Cluster]) -> None:
    """Stop, kill and stop again on a stopped server do nothing."""
    cluster = new_cluster()
    cluster.stop()
    cluster.stop()
    cluster.kill()
    assert not cluster.running


def test_a_fresh_database_is_dropped_with_its_slots(source_cluster: Cluster) -> None:
    """A test may leave a logical slot behind, even one that is being read."""
    url = source_cluster.create_database("with_slot")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('left_over', 'pgoutput')")
    source_cluster.drop_database("with_slot")
    assert 0 == value(source_cluster.url(), "select count(*) from pg_replication_slots")


def test_no_server_outlives_a_killed_owner(tmp_path: Path) -> None:
    """A kill -9 of the process that started a server ends the server within moments."""
    script = (
        "import sys, time; from fixia_shardmig.demo.clusters import Cluster;"
        f"c = Cluster.create({str(tmp_path / 'orphan')!r}, settings={{'fsync': 'off'}}); c.start();"
        "print(c._server.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        server = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    server.wait(timeout=DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while server.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server.is_running()

"""Who is let in to a walsender, and what the others are told."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.postgres.replication import replication_connection


def refusal(url: str) -> ShardmigError:
    """Return the error with which a URL is refused."""
    with pytest.raises(ShardmigError) as caught:
        replication_connection(url, "test").close()
    return caught.value


def test_a_wrong_password_is_refused_and_never_shown(either_cluster: Cluster) -> None:
    """The message names the place, and neither it nor the hint holds the password."""
    error = refusal(either_cluster.url(password="open sesame"))

    assert isinstance(error, RefusedError)
    assert error.message == f"postgres@127.0.0.1:{either_cluster.port}/postgres: the password is wrong"
    assert "sesame" not in str(error)


def test_a_role_without_replication_is_refused(either_cluster: Cluster) -> None:
    """The server's words for it differ between versions, ours do not."""
    with psycopg.connect(either_cluster.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        error = refusal(either_cluster.url(user="reader", password="reader"))
        admin.execute("DROP ROLE reader")

    assert isinstance(error, RefusedError)
    assert "the role may not replicate" in error.message
    assert "ALTER ROLE" in error.hint


def test_a_server_without_logical_wal_is_refused(new_cluster: Callable[..., Cluster]) -> None:
    """The slot would fail later with the server's own words; this says what to set."""
    error = refusal(new_cluster(major=15, settings={"wal_level": "replica"}).url())

    assert isinstance(error, RefusedError)
    assert "wal_level is replica, and a slot needs logical" in error.message
    assert "ALTER SYSTEM SET wal_level = logical" in error.hint


def test_a_server_without_a_free_walsender_is_refused(new_cluster: Callable[..., Cluster]) -> None:
    """The hint says which setting counts them."""
    url = new_cluster(major=15, settings={"max_wal_senders": "1"}).url()
    with contextlib.closing(replication_connection(url, "test")):
        error = refusal(url)

    assert isinstance(error, RefusedError)
    assert "no walsender is free" in error.message


def test_a_server_that_is_away_is_temporary() -> None:
    """Nobody has to change anything but the server's state."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    assert isinstance(refusal(f"postgresql://u:secret@127.0.0.1:{port}/d"), TemporaryError)


def test_the_settings_of_a_session_are_pinned(either_cluster: Cluster) -> None:
    """Pitfalls 18 and 48: no timeout, and one text form of every value."""
    names = ["DateStyle", "TimeZone", "IntervalStyle", "extra_float_digits", "bytea_output", "statement_timeout"]
    with contextlib.closing(replication_connection(either_cluster.url(), "test")) as connection:
        values = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in names]

    assert [("ISO, YMD",), ("UTC",), ("postgres",), ("3",), ("hex",), ("0",)] == values


def test_a_pooler_that_passes_replication_through_is_refused(either_cluster: Cluster) -> None:
    """Pitfall 46: PgBouncer 1.23 and later do so, but invent the process id; here a relay in between does the same."""
    with _pooler(either_cluster.port) as port:
        url = either_cluster.url().replace(f":{either_cluster.port}/", f":{port}/")
        error = refusal(url + "?sslmode=disable&gssencmode=disable")

    assert isinstance(error, RefusedError)
    assert "this is a connection pooler" in error.message
    assert "direct URL" in error.hint


def test_pgbouncer_is_refused(either_cluster: Cluster, tmp_path: Path) -> None:
    """Pitfall 46: before 1.23 PgBouncer refuses the startup parameter by itself."""
    with _pgbouncer(either_cluster, tmp_path) as port:
        url = either_cluster.url().replace(f":{either_cluster.port}/", f":{port}/")
        psycopg.connect(url).close()
        error = refusal(url)

    assert isinstance(error, RefusedError)
    assert "this is a connection pooler" in error.message


@contextlib.contextmanager
def _pooler(server_port: int) -> Iterator[int]:
    """Relay one connection to a server and tell its client another process id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = threading.Thread(target=_relay, args=[listener, server_port])
        relay.start()
        yield listener.getsockname()[1]
        relay.join(30)


def _relay(listener: socket.socket, server_port: int) -> None:
    client, _address = listener.accept()
    with client, socket.create_connection(("127.0.0.1", server_port)) as server:
        upward = threading.Thread(target=_pass_on, args=[client, server])
        upward.start()
        answers = server.makefile("rb")
        while head := answers.read(5):
            kind, size = struct.unpack(">cI", head)
            body = answers.read(size - 4)
            if kind == b"K":
                body = struct.pack(">I", 1) + body[4:]
            client.sendall(head + body)
        upward.join(30)


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    while data := client.recv(65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _pgbouncer(cluster: Cluster, directory: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "users.txt").write_text(f'"postgres" "{cluster.password}"\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={cluster.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {directory}/users.txt\n"
        "pool_mode = transaction\n"
    )
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)
    command = ["pgbouncer", "-q", "-u", "nobody", str(directory / "pgbouncer.ini")]
    with subprocess.Popen(command) as process:
        try:
            _wait_for_port(port)
            yield port
        finally:
            process.terminate()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return

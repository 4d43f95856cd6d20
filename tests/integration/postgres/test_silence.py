"""A server that says nothing: still at work, or behind a line on which nothing gets through any more."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from fixia_shardmig.copy.line import read_copy
from fixia_shardmig.copy.relay import PythonSorter
from fixia_shardmig.model.errors import TemporaryError
from fixia_shardmig.postgres import replication, sessions, silence
from fixia_shardmig.postgres.replication import Stream
from fixia_shardmig.postgres.sessions import Connection, connect
from tests.fixtures.fix_proxy import Proxy
from tests.fixtures.fix_replication import READ_BYTES, Published

SHORT_S = 0.5
WAIT_S = 1.0
LOOKS = 8


@pytest.fixture(autouse=True)
def _short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let half a second be long, and nobody look but the test."""
    monkeypatch.setattr(sessions, "watch", lambda *_: None)
    monkeypatch.setattr(silence, "SILENCE_S", SHORT_S)
    monkeypatch.setattr(silence, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(replication, "SILENCE_S", SHORT_S)


@contextmanager
def _waiting(connection: Connection, act: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Have a thread wait for a server; what it fails with is in the list once the block has ended."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(WAIT_S)
    yield failures
    thread.join(10.0)
    assert not thread.is_alive()
    connection.close()


def _watched(connection: Connection, url: str) -> silence._Watched:
    pid = connection.info.backend_pid
    return silence._Watched(weakref.ref(connection), url, pid)


def test_a_statement_that_takes_long_is_left_alone(source_url: str) -> None:
    """The backend is at work, whatever the time."""
    connection = connect(source_url, "long")
    watched = _watched(connection, source_url)
    with _waiting(connection, lambda: connection.execute("select pg_sleep(2)")) as failures:
        assert silence._silent_s(connection) >= SHORT_S
        assert [True, True, True] == [watched.look() for _ in range(3)]
    assert [] == failures


def _select(connection: Connection) -> None:
    connection.execute("select 1")


def _copy_out(connection: Connection) -> None:
    """Read rows from the socket itself, of which libpq knows nothing."""
    for _ in read_copy(connection, "COPY (SELECT 1) TO STDOUT", PythonSorter(binary=False, routed=False, homes=1)):
        pass


@pytest.mark.parametrize("act", [_select, _copy_out])
@pytest.mark.parametrize("break_line", [Proxy.stall, Proxy.half_open])
def test_a_line_on_which_nothing_gets_through_is_cut(
    source_url: str,
    proxy_to: Callable[[str], Proxy],
    break_line: Callable[[Proxy], None],
    act: Callable[[Connection], None],
) -> None:
    """TCP is content, and the statement would wait for ever."""
    proxy = proxy_to(source_url)
    connection = connect(proxy.url, "silent")
    watched = _watched(connection, proxy.url)
    break_line(proxy)
    with _waiting(connection, lambda: act(connection)) as failures:
        assert [True, False] == [watched.look(), watched.look()]
    assert [psycopg.OperationalError] == [type(failure) for failure in failures]


def test_an_answer_that_was_lost_on_the_way_is_noticed(source_url: str, proxy_to: Callable[[str], Proxy]) -> None:
    """The server can be asked, and its backend is idle: it has answered already. libpq's own calls wake too."""
    proxy = proxy_to(source_url)
    connection = connect(proxy.url, "silent")
    watched = _watched(connection, source_url)
    proxy.half_open()

    def act() -> None:
        result = connection.pgconn.exec_(b"select 1")
        raise psycopg.errors.error_from_result(result)

    with _waiting(connection, act) as failures:
        assert [True, False] == [watched.look(), watched.look()]
    assert 1 == len(failures)


def test_a_shard_that_waits_for_our_rows_is_left_alone(source_url: str) -> None:
    """A chunk may have no row for it for a while."""
    connection = connect(source_url, "copy in")
    connection.execute("create table public.t (n int)")
    watched = _watched(connection, source_url)
    connection.pgconn.exec_(b"copy public.t from stdin")
    time.sleep(WAIT_S)
    assert [True, True, True] == [watched.look() for _ in range(3)]
    connection.close()


def test_a_shard_that_no_row_was_for_is_left_alone_for_as_long_as_we_say_so(
    source_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a low rate a chunk may have no row for a shard for minutes; once nobody speaks for it, it counts again."""
    monkeypatch.setattr(silence, "SILENCE_S", SHORT_S / 2)
    connection = connect(source_url, "copy in")
    connection.execute("create table public.t (n int)")
    watched = _watched(connection, source_url)
    connection.pgconn.exec_(b"copy public.t from stdin")
    for _ in range(6):
        time.sleep(SHORT_S / 2)
        silence.excuse(connection)
        assert watched.look()
    time.sleep(SHORT_S / 2 * silence.COPY_SILENCE + SHORT_S / 2)
    assert [True, False] == [watched.look(), watched.look()]
    connection.close()


def test_a_session_that_waits_for_nothing_is_not_looked_at(source_url: str) -> None:
    """An idle one, also within a transaction: a snapshot's holder."""
    connection = connect(source_url, "holder")
    connection.execute("begin")
    time.sleep(WAIT_S)
    assert 0.0 == silence._silent_s(connection)
    connection.close()


def test_a_stream_without_an_answer_ends_as_temporary(
    publish: Callable[..., Published], source_url: str, proxy_to: Callable[[str], Proxy]
) -> None:
    """An idle source answers when it is asked; behind a dead line nobody does."""
    with psycopg.connect(source_url) as connection:
        connection.execute("create table t (id int primary key)")
    published = publish(source_url, "t")
    proxy = proxy_to(published.url)
    stream = Stream(proxy.url, published.name, start=published.lsn, publication=published.name)

    def read_on() -> None:
        for _ in range(LOOKS):
            stream.read(READ_BYTES, SHORT_S)

    read_on()
    proxy.half_open()
    with pytest.raises(TemporaryError, match="the server has not answered for"):
        read_on()
    stream.close()

"""What errors and descriptions say of a URL: where, never the password."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import conninfo, errors

from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.postgres.retry import as_shardmig_error, is_passing
from fixia_shardmig.postgres.sessions import connect, connection_error, describe, without_secret

URL = "postgresql://app:hunter2@db:5433/shop"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "app@db:5433/shop"),
        ("postgresql://app@db/shop?password=hunter2", "app@db/shop"),
        ("host=db user=app password=hunter2", "app@db/app"),
        ("postgresql:///shop", "local socket/shop"),
        ("postgresql://app:hunter2@[::1]:5433/shop", "app@::1:5433/shop"),
        ("postgresql://app:hun%ter2@db/shop", "an unreadable URL"),
        ("postgresql://app:hun@ter2@db/shop", "an unreadable URL"),
    ],
)
def test_a_url_is_described_by_its_place(url: str, expected: str) -> None:
    """User, host, port and database; nothing of a URL that cannot be read."""
    assert expected == describe(url)


PASSWORDS = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=12).filter(str.strip)


@given(password=PASSWORDS)
def test_no_password_survives_in_a_text(password: str) -> None:
    """Whatever it is made of: as the server got it, and in the URL as a whole."""
    url = conninfo.make_conninfo("", host="db", user="app", dbname="shop", password=password)
    assert password not in describe(url)
    assert password not in without_secret(f"could not log in with {password} by {url}", url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hun%ter2@db/shop",
        "postgresql://app:hun ter2@[db/shop",
        "postgresql://app:hun@ter2@db:port/shop",
        "postgresql://app:hunter2@127.0.0.1:1/shop?unknown=1",
        "host=db password='hunter2",
        "hunter2",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_a_piece_of_it(url: str) -> None:
    """Libpq shows the part that it trips over, which may be in the password; we show where the URL is wrong in ours."""
    with pytest.raises(ShardmigError) as caught:
        connect(url, "test")
    shown = repr(caught.value) + str(caught.value)
    assert [] == [piece for piece in ("hunter2", "hun%", "ter2", "hun ", "hun@") if piece in shown]
    assert caught.value.hint


def test_an_unreachable_server_is_temporary() -> None:
    """Exit 75: the place is named, and the same command may work later."""
    with pytest.raises(TemporaryError, match=r"app@127\.0\.0\.1:1/shop: cannot connect: .*refused") as caught:
        connect("postgresql://app:hunter2@127.0.0.1:1/shop", "test")
    assert "hunter2" not in str(caught.value)


REFUSALS = {
    'password authentication failed for user "app"': "the password is wrong",
    'role "app" does not exist': "the role does not exist or may not log in",
    'role "app" is not permitted to log in': "the role does not exist or may not log in",
    'database "shop" does not exist': "the database does not exist",
    'permission denied for database "shop"': "the role may not connect to the database",
    'no pg_hba.conf entry for host "10.0.0.1", user "app", database "shop", no encryption': (
        "pg_hba.conf does not let this host in"
    ),
    "unsupported startup parameter in options: replication": "this is a pooler, not PostgreSQL itself",
}


@pytest.mark.parametrize(("text", "message"), REFUSALS.items())
def test_a_servers_refusal_says_what_to_correct(text: str, message: str) -> None:
    """Pitfall 46: exit 4 with a hint; trying again would not help."""
    error = connection_error(psycopg.OperationalError(f'server at "db" failed: FATAL:  {text}'), URL)
    assert (RefusedError, f"app@db:5433/shop: {message}") == (type(error), error.message)
    assert error.hint


@pytest.mark.parametrize(
    "text",
    [
        "the database system is starting up",
        "the database system is shutting down",
        "sorry, too many clients already",
        'remaining connection slots are reserved for roles with the "pg_use_reserved_connections" role',
    ],
)
def test_a_server_that_is_busy_or_starting_is_temporary(text: str) -> None:
    """Exit 75, although the text speaks of a database or a role."""
    error = connection_error(psycopg.OperationalError(f"FATAL:  {text}"), URL)
    assert (TemporaryError, f"app@db:5433/shop: cannot connect: FATAL:  {text}") == (type(error), error.message)


PASSING = [
    errors.SerializationFailure(),
    errors.DeadlockDetected(),
    errors.LockNotAvailable(),
    errors.AdminShutdown(),
    errors.DiskFull(),
    errors.ConnectionFailure(),
    psycopg.OperationalError("server closed the connection unexpectedly"),
    TemporaryError("later"),
]
LASTING = [
    errors.UniqueViolation(),
    errors.UndefinedTable(),
    psycopg.InterfaceError(),
    RefusedError("no"),
    ValueError(),
]


def test_only_what_passes_by_itself_is_tried_again() -> None:
    """A short list: a violated key or a missing table stays so."""
    assert ([True] * len(PASSING), [False] * len(LASTING)) == (
        [is_passing(error) for error in PASSING],
        [is_passing(error) for error in LASTING],
    )


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (errors.DiskFull("no space"), TemporaryError, "make room on that server's disk, then run: shardmig copy"),
        (errors.AdminShutdown("bye"), TemporaryError, "when the server is back, run: shardmig copy"),
        (errors.UndefinedTable("no table"), ShardmigError, "remove the cause, then run: shardmig copy"),
    ],
)
def test_a_servers_error_keeps_its_first_line_and_the_next_command(
    error: psycopg.Error, kind: type[ShardmigError], hint: str
) -> None:
    """The place, what was being done, the cause, what to run; the password is blotted out."""
    made = as_shardmig_error(
        type(error)(f"{error} with hunter2\nDETAIL: long"), URL, doing="copying users", next_command="shardmig copy"
    )
    expected = f"app@db:5433/shop: copying users: {error} with ***"
    assert (kind, expected, hint) == (type(made), made.message, made.hint)

"""Sessions keep their pinned settings whatever the role, the database or the URL says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import conninfo, sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.postgres.sessions import TRANSACTION_TIMEOUT_SINCE, connect, insert_lsn, is_open, scalar, session

AWKWARD: dict[str, LiteralString] = {
    "client_encoding": "LATIN1",
    "datestyle": "German",
    "intervalstyle": "iso_8601",
    "timezone": "Pacific/Chatham",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmloption": "document",
    "search_path": "public, pg_catalog",
    "row_security": "on",
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "idle_session_timeout": "1s",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
}
"""Defaults that somebody could have set for good reasons, and that would change what a value reads as, or end us."""

VALUES = (
    "SELECT concat_ws(' | ', '2024-02-29 23:59:59+00'::timestamptz, '1 day 02:03:04'::interval,"
    " 0.1::float8 + 0.2::float8, '\\x00ff'::bytea, 'é')"
)
READ_AS = "2024-02-29 23:59:59+00 | 1 day 02:03:04 | 0.30000000000000004 | \\x00ff | é"


@pytest.fixture(params=["database", "role", "role in database", "url"])
def awkward_url(
    request: pytest.FixtureRequest, source_cluster: Cluster, fresh_database: Callable[..., str]
) -> Iterator[str]:
    """Give the URL of a database whose sessions begin with awkward settings."""
    url = fresh_database(source_cluster, "awkward")
    name = str(conninfo.conninfo_to_dict(url)["dbname"])
    if request.param == "url":
        options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in AWKWARD.items())
        yield conninfo.make_conninfo(url, options=options)
        return
    database, role = sql.Identifier(name), sql.Identifier(f"role_{name}")
    where = {
        "database": sql.SQL("DATABASE {}").format(database),
        "role": sql.SQL("ROLE {}").format(role),
        "role in database": sql.SQL("ROLE {} IN DATABASE {}").format(role, database),
    }[request.param]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD 'hunter2'").format(role))
        for setting, value in AWKWARD.items():
            shown = sql.SQL(value) if setting == "search_path" else sql.Literal(value)
            connection.execute(sql.SQL("ALTER {} SET {} = {}").format(where, sql.Identifier(setting), shown))
        yield conninfo.make_conninfo(url, user=f"role_{name}", password="hunter2")
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_pinned_settings_hold_against_every_default(awkward_url: str) -> None:
    """Pitfalls 18 and 48: no default changes how a value reads, hides rows or ends a long session."""
    with psycopg.connect(awkward_url, autocommit=True) as plain:
        assert plain.execute("SHOW datestyle").fetchone() != ("ISO, YMD",)
    with session(awkward_url, "test") as connection:
        assert READ_AS == scalar(connection, VALUES)
        names = [*AWKWARD, "transaction_timeout"]
        found = {name: scalar(connection, "SELECT current_setting(%s, true)", (name,)) for name in names}
    assert {
        "client_encoding": "UTF8",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
        "timezone": "UTC",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "xmloption": "content",
        "search_path": "pg_catalog",
        "row_security": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        "quote_all_identifiers": "off",
        "standard_conforming_strings": "on",
        "transaction_timeout": "0",
    } == found


@pytest.mark.parametrize("major", [15, 18])
def test_a_transaction_timeout_is_pinned_where_there_is_one(
    clusters_by_major: Callable[[int], Cluster], fresh_database: Callable[..., str], major: int
) -> None:
    """Pitfall 18: PostgreSQL 17 brought it; an older server does not know its name."""
    url = fresh_database(clusters_by_major(major), "timeouts")
    knows = major * 10_000 >= TRANSACTION_TIMEOUT_SINCE
    if knows:
        with psycopg.connect(url, autocommit=True) as plain:
            name = sql.Identifier(str(conninfo.conninfo_to_dict(url)["dbname"]))
            plain.execute(sql.SQL("ALTER DATABASE {} SET transaction_timeout = '1s'").format(name))
    with session(url, "test") as connection:
        expected = "0" if knows else None
        assert expected == scalar(connection, "SELECT current_setting('transaction_timeout', true)")


def test_settings_outlive_a_transaction_that_is_rolled_back(source_url: str) -> None:
    """Pitfall 48: they are the session's, also where autocommit is off from the start."""
    with session(source_url, "test", autocommit=False) as connection:
        connection.rollback()
        assert scalar(connection, "SHOW search_path") == "pg_catalog"


def test_a_session_says_what_it_is_for(source_url: str) -> None:
    """An operator finds ours in pg_stat_activity, and a closed one is known as closed."""
    with session(source_url, "copy reader") as connection:
        assert scalar(connection, "SHOW application_name") == "shardmig copy reader"
        assert is_open(connection)
        assert insert_lsn(connection) > 0
    assert not is_open(connection)


def test_a_session_is_closed_after_an_error(source_url: str) -> None:
    """Whatever happens in between."""
    with pytest.raises(psycopg.errors.DivisionByZero), session(source_url, "test") as connection:
        connection.execute("SELECT 1/0")
    assert connection.closed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": "hunter2"}, "the password is wrong"),
        ({"dbname": "nowhere"}, "the database does not exist"),
        ({"user": "nobody_of_this_name"}, "the password is wrong"),
    ],
)
def test_a_refusal_of_a_real_server_shows_no_password(source_url: str, change: dict[str, str], message: str) -> None:
    """The server does not tell an unknown role from a wrong password, and we tell neither secret."""
    url = conninfo.make_conninfo(source_url, **change)
    password = str(conninfo.conninfo_to_dict(url)["password"])
    with pytest.raises(RefusedError, match=message) as caught:
        connect(url, "test")
    assert password not in f"{caught.value!r} {caught.value}"
    assert (None, True) == (caught.value.__cause__, caught.value.__suppress_context__)

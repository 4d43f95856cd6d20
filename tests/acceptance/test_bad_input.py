"""Wrong places, servers that cannot, tables that must not: each ends as one line, a hint that helps, and a code.

No password may be in any of it; the fixture searches all that the program said.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_program import SHOP_MAPPING, Shop

PGBOUNCER = "/usr/sbin/pgbouncer"


@pytest.fixture(scope="module")
def odd_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """Give a server whose settings a test may change; they are put back by the next one that asks for others."""
    with Cluster.create(servers_directory / "odd-bad", settings={"fsync": "off"}) as cluster:
        yield cluster


def _restarted(cluster: Cluster, **settings: str) -> Cluster:
    cluster.settings = {"fsync": "off", **settings}
    cluster.restart()
    return cluster


def _blockers(plan: Any) -> dict[str, dict[str, str]]:
    return {found["code"]: found for found in plan["findings"] if found["severity"] == "blocker"}


@pytest.mark.parametrize(
    ("before", "after", "code", "cause"),
    [
        ("{password}@", "wrong-secret@", 4, "the password is wrong"),
        (":{port}/", ":1/", 75, "cannot connect"),
        ("127.0.0.1", "nowhere.invalid", 4, "the host's name is unknown"),
        ("/{database}", "/nothing_here", 4, "the database does not exist"),
    ],
)
def test_a_wrong_source_url_is_named_without_its_password(
    shop: Shop, before: str, after: str, code: int, cause: str
) -> None:
    """The line says which place and what is wrong with it; 75 only where waiting may help."""
    right = shop.urls["source"]
    parts = conninfo_to_dict(right)
    known = {"password": parts["password"], "port": parts["port"], "database": parts["dbname"]}
    shop.env["SOURCE_URL"] = right.replace(before.format(**known), after)
    assert right != shop.env["SOURCE_URL"]
    ended = shop.run("plan").expect(code)
    assert cause in ended.cause
    assert "postgres@" in ended.cause
    assert ended.hint
    assert "wrong-secret" not in shop.all_said


def test_a_role_that_does_not_exist_is_named(shop: Shop) -> None:
    """A server may not say more than that the password is wrong; the user stands in the line either way."""
    shop.env["SOURCE_URL"] = shop.urls["source"].replace("postgres:", "nobody_here:", 1)
    assert "nobody_here@" in shop.run("plan").expect(4).cause


def test_a_shard_with_a_wrong_password_is_a_blocker_that_names_it(shop: Shop) -> None:
    """The plan names the shard, the copy refuses, and nothing is made anywhere."""
    shop.env["PROS_URL"] = shop.urls["pros"].replace(":", ":wrong-secret", 2).replace(":wrong-secret", ":", 1)
    blockers = _blockers(shop.json("plan", code=4))
    assert "the shard pros" in blockers["target-unreachable"]["message"]
    assert "the password is wrong" in blockers["target-unreachable"]["message"]
    assert "target-unreachable" in shop.run("copy").expect(4).cause + shop.all_said
    assert [] == shop.sql("source", "select slot_name from pg_replication_slots where database = current_database()")
    assert "wrong-secret" not in shop.all_said


def test_a_journal_with_a_wrong_password_is_refused(shop: Shop) -> None:
    """Where the journal's shard lets nobody in there is nothing to begin with."""
    right = shop.urls["clients"]
    shop.env["CLIENTS_URL"] = right.replace(str(conninfo_to_dict(right)["password"]), "wrong-secret")
    ended = shop.run("copy").expect(4)
    assert "the password is wrong" in ended.cause
    assert "correct the password in the URL" == ended.hint


def test_a_shard_with_the_sources_url_is_a_mistake_in_the_mapping(shop: Shop) -> None:
    """Exit 2 with the line, before anything is connected to."""
    shop.env["PROS_URL"] = shop.urls["source"]
    ended = shop.run("plan").expect(2)
    assert "shop.yaml:5:" in ended.cause
    assert "pros is the same database as the source" in ended.cause
    assert "mend the mapping, then run: shardmig plan" == ended.hint


def test_a_shard_that_is_the_source_under_another_name_is_refused(shop: Shop) -> None:
    """What the server says of itself counts, not the URL; abort --drop-targets must not drop the source then."""
    shop.env["PROS_URL"] = shop.urls["source"].replace("127.0.0.1", "localhost")
    assert "the source" in _blockers(shop.json("plan", code=4))["same-database"]["message"]
    assert 4 == shop.run("copy").code
    shop.run("--yes", "abort", "--drop-targets").expect(0)
    assert 400 == shop.one("source", "select count(*) from users")


def test_two_shards_that_are_one_database_are_refused(shop: Shop) -> None:
    """127.0.0.1 and localhost are one server; the hint makes another database."""
    shop.env["PROS_URL"] = shop.urls["clients"].replace("127.0.0.1", "localhost")
    found = _blockers(shop.json("plan", code=4))["same-database"]
    assert "the shard clients is the same database as the shard pros" in found["message"]
    assert "createdb" in found["hint"]
    assert "same-database" in shop.run("copy").expect(4).stderr


def test_a_source_without_logical_wal_is_refused(make_shop: Callable[..., Shop], odd_cluster: Cluster) -> None:
    """The hint's statement and a restart make the plan pass."""
    shop = make_shop(source=_restarted(odd_cluster, wal_level="replica"))
    ended = shop.run("copy").expect(4)
    assert "wal_level is replica, and a slot needs logical" in ended.stderr
    assert "ALTER SYSTEM SET wal_level = logical, then restart the source" == ended.hint
    _restarted(odd_cluster)
    shop.run("plan").expect(0)


def test_a_source_without_a_free_slot_or_walsender_is_refused(
    make_shop: Callable[..., Shop], odd_cluster: Cluster
) -> None:
    """Both are blockers with the number to set."""
    shop = make_shop(source=_restarted(odd_cluster, max_replication_slots="1", max_wal_senders="0"))
    with psycopg.connect(shop.urls["source"], autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('somebody', 'pgoutput')")
        blockers = _blockers(shop.json("plan", code=4))
        connection.execute("select pg_drop_replication_slot('somebody')")
    assert {"replication-slots", "wal-senders"} == set(blockers)
    assert "max_replication_slots = 5" in blockers["replication-slots"]["hint"]
    assert "max_wal_senders = 4" in blockers["wal-senders"]["hint"]


def test_a_role_without_replication_is_refused_and_the_hint_is_the_statement(
    shop: Shop, source_cluster: Cluster
) -> None:
    """A role that owns its tables lacks just this; the plan passes after the hint's statement."""
    database = str(conninfo_to_dict(shop.urls["source"])["dbname"])
    role = f"limited_{database}"
    with psycopg.connect(shop.urls["source"], autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login password 'limited-secret'").format(sql.Identifier(role)))
        try:
            for grant in (
                "grant create on database {database} to {role}",
                "alter table users owner to {role}",
                "alter table orders owner to {role}",
                "alter table settings owner to {role}",
            ):
                names = {"role": sql.Identifier(role), "database": sql.Identifier(database)}
                connection.execute(sql.SQL(grant).format(**names))
            shop.env["SOURCE_URL"] = source_cluster.url(database, role, password="limited-secret")
            blockers = _blockers(shop.json("plan", code=4))
            assert {"role-replication"} == set(blockers)
            statement = blockers["role-replication"]["hint"].removeprefix("as a superuser: ").partition(" (")[0]
            connection.execute(statement.encode())
            shop.run("plan").expect(0)
        finally:
            connection.execute(sql.SQL("reassign owned by {} to postgres").format(sql.Identifier(role)))
            connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    assert "limited-secret" not in shop.all_said


def test_a_table_without_a_key_is_refused_before_the_application_would_fail(shop: Shop) -> None:
    """Pitfall 13: published without identity its UPDATEs would fail; the hint's statement lets the copy begin."""
    shop.sql("source", "create table visits (user_id int not null references users, at text)")
    shop.write_mapping(SHOP_MAPPING + "  visits: {follows: user_id}\n")
    ended = shop.run("copy").expect(4)
    assert "no-identity" in ended.stderr
    with psycopg.connect(shop.urls["source"], autocommit=True) as connection:
        connection.execute(ended.hint.partition(";")[0].encode())
    shop.run("copy").expect(0)


def test_a_mapping_for_another_database_names_every_table_that_is_not_there(shop: Shop) -> None:
    """Exit 2 with file, line and column: the author of the mapping acts next."""
    shop.sql("source", "alter table orders rename to purchases")
    ended = shop.run("plan")
    assert 2 == ended.code
    assert "shop.yaml:9:" in ended.stderr
    assert "orders" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unmapped_table_is_a_blocker(shop: Shop) -> None:
    """A table that no rule names is never left behind silently."""
    shop.sql("source", "create table forgotten (id int primary key)")
    ended = shop.run("plan")
    assert ended.code in {2, 4}
    assert "forgotten" in ended.stdout + ended.stderr


@pytest.fixture
def pooled(source_cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Run a real PgBouncer in transaction pooling in front of the source; gives the pooled form of a URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "users.txt").write_text(f'"postgres" "{source_cluster.password}"\n')
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={source_cluster.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = {directory}/users.txt\npool_mode = transaction\n"
        )
        for path in (directory, *directory.iterdir()):
            path.chmod(0o755)
        user = ("-u", "nobody") if os.geteuid() == 0 else ()
        process = subprocess.Popen([PGBOUNCER, "-q", *user, str(directory / "pgbouncer.ini")])
        try:
            _await_port(port)
            yield lambda url: url.replace(f":{source_cluster.port}/", f":{port}/")
        finally:
            process.terminate()
            process.wait(20)


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise AssertionError("PgBouncer does not listen")


def test_a_transaction_pooler_as_source_is_refused(shop: Shop, pooled: Callable[[str], str]) -> None:
    """Pitfall 46: neither slots nor settings live through it, so copy says to use the direct URL."""
    shop.env["SOURCE_URL"] = pooled(shop.urls["source"])
    ended = shop.run("copy").expect(4)
    assert "connection pooler" in ended.stderr
    assert "direct URL" in ended.hint
    shop.env["SOURCE_URL"] = shop.urls["source"]
    shop.run("copy").expect(0)
    shop.env["SOURCE_URL"] = pooled(shop.urls["source"])
    ended = shop.run("tail", "--until", "caught-up").expect(4)
    assert "connection pooler" in ended.cause
    assert "direct URL" in ended.hint

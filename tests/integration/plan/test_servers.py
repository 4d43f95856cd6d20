"""Each check of servers, roles and shards fires on a server that is made for it."""

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
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.plan import Finding, Severity, make_plan
from fixia_shardmig.plan import Plan as MadePlan
from fixia_shardmig.schema import apply_pre_data, build
from tests.fixtures.fix_split import Split
from tests.integration.plan.conftest import USERS, USERS_DDL, Planned

SHARDS = ("professionals", "clients", "shared")
Planner = Callable[..., Planned]


def execute(url: str, text: str) -> None:
    """Run SQL on a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text.encode())


def plan_of(split: Split) -> MadePlan:
    """Plan a split again."""
    return make_plan(split.shard_map, split.url)


def codes(plan: MadePlan) -> dict[str, Severity]:
    """Return the codes of a plan's findings."""
    return {finding.code: finding.severity for finding in plan.findings}


def one(plan: MadePlan, code: str) -> Finding:
    """Return the only finding of a code."""
    (finding,) = [finding for finding in plan.findings if finding.code == code]
    return finding


def other(split: Split, **urls: str) -> Split:
    """Return the split with other URLs for some shards."""
    shards = {name: type(end)(urls.get(name, end.url)) for name, end in split.shard_map.shards.items()}
    shard_map = type(split.shard_map)(
        split.shard_map.name, "", split.shard_map.source, shards, "shared", split.shard_map.tables
    )
    return Split(split.url, shard_map, split.catalog)


def test_a_server_that_cannot_serve_a_slot(
    new_cluster: Callable[..., Cluster], split_of: Callable[..., Split], shard_urls: dict[str, str]
) -> None:
    """Pitfall 17. wal_level, free slots and senders, and the limits at which a slot is given up, each by name."""
    cluster = new_cluster(
        major=18,
        settings={
            "wal_level": "replica",
            "max_replication_slots": "1",
            "max_wal_senders": "0",
            "max_slot_wal_keep_size": "512MB",
            "idle_replication_slot_timeout": "2h",
            "max_prepared_transactions": "2",
        },
    )
    split = split_of(cluster.create_database("s"), shard_urls, USERS, USERS_DDL)
    execute(split.url, "BEGIN; INSERT INTO users VALUES ('u9', 'client'); PREPARE TRANSACTION 'open-one'")
    plan = plan_of(split)
    found = codes(plan)
    assert Severity.BLOCKER is found["wal-level"]
    assert Severity.WARNING is found["replication-slots"]
    assert Severity.BLOCKER is found["wal-senders"]
    assert Severity.WARNING is found["slot-wal-limit"]
    assert Severity.WARNING is found["idle-slot-timeout"]
    assert "max_slot_wal_keep_size is 536.9 MB" in one(plan, "slot-wal-limit").message
    assert "open-one" in one(plan, "prepared-transactions").message
    assert "ALTER SYSTEM SET wal_level = logical" in one(plan, "wal-level").hint


def test_a_standby_is_no_source(
    new_cluster: Callable[..., Cluster], split_of: Callable[..., Split], shard_urls: dict[str, str]
) -> None:
    """A read-only copy takes neither publication nor fence."""
    cluster = new_cluster(major=15)
    split = split_of(cluster.create_database("s"), shard_urls, USERS, USERS_DDL)
    cluster.stop()
    (cluster.data_directory / "standby.signal").touch()
    cluster.start()
    assert Severity.BLOCKER is codes(plan_of(split))["source-standby"]


def test_a_role_that_may_too_little(planned: Planner, source_cluster: Cluster) -> None:
    """Pitfall 53. What a role lacks on source and shards is named, each with the GRANT."""
    split = planned("ALTER TABLE users ENABLE ROW LEVEL SECURITY").split
    urls = {name: end.url for name, end in split.shard_map.shards.items()}
    make = "CREATE ROLE clerk LOGIN PASSWORD 'clerk'"
    execute(split.url, make)
    execute(urls["clients"], make)
    try:
        execute(urls["clients"], "REVOKE SELECT ON pg_available_extensions FROM PUBLIC")
        weak = other(split, clients=_as_clerk(urls["clients"]))
        plan = make_plan(weak.shard_map, _as_clerk(split.url))
        found = codes(plan)
        for code in ("role-replication", "role-select", "role-create", "role-owner", "role-row-security"):
            assert Severity.BLOCKER is found[code]
        for code in ("create", "replica", "row-security"):
            assert Severity.BLOCKER is found[f"target-role-{code}"]
        assert Severity.WARNING is found["target-role-origins"]
        assert Severity.WARNING is found["target-no-rollback"]
        assert Severity.WARNING is found["not-counted"]
        assert "targets.extensions could not look" in one(plan, "check-failed").message
        assert "ALTER ROLE clerk REPLICATION" in one(plan, "role-replication").hint
        assert "GRANT SELECT ON public.users TO clerk" in one(plan, "role-select").hint
    finally:
        execute(split.url, "DROP ROLE clerk")
        execute(urls["clients"], "DROP ROLE clerk")
    assert source_cluster.running


def _as_clerk(url: str) -> str:
    return "postgresql://clerk:clerk@" + url.partition("@")[2]


def test_shards_are_told_apart_by_the_server_and_not_by_their_urls(planned: Planner) -> None:
    """Another spelling of a URL does not make another database: neither the source nor a shard twice."""
    split = planned().split
    clients = split.shard_map.shards["clients"].url
    twice = other(
        split,
        professionals=split.url.replace("127.0.0.1", "localhost"),
        shared=clients.replace("127.0.0.1", "localhost"),
    )
    messages = [finding.message for finding in plan_of(twice).findings if finding.code == "same-database"]
    assert ["professionals is the same database as the source", "shared is the same database as the shard clients"] == [
        message.removeprefix("the shard ").partition(" (")[0] for message in messages
    ]


def test_a_shard_that_does_not_answer_is_a_finding(planned: Planner) -> None:
    """The plan says all there is to say in one go, also when a shard is away; no password is in it."""
    split = planned().split
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    plan = plan_of(other(split, clients=f"postgresql://u:s3cret@127.0.0.1:{port}/d"))
    finding = one(plan, "target-unreachable")
    assert Severity.BLOCKER is finding.severity
    assert "the shard clients: " in finding.message
    assert "s3cret" not in str(plan)


def test_a_source_that_does_not_answer_is_an_error(planned: Planner) -> None:
    """Without the source there is no plan."""
    split = planned().split
    with pytest.raises(RefusedError, match="does not exist"):
        make_plan(split.shard_map, split.url + "_not")


def test_a_shard_with_tables_is_refused_unless_they_are_ours(planned: Planner) -> None:
    """Somebody's tables block; what `schema apply` made does not."""
    split = planned().split
    execute(split.shard_map.shards["clients"].url, "CREATE TABLE theirs (id int)")
    apply_pre_data(split.shard_url("shared"), build(split.url, split.shard_map, split.catalog, "shared"))
    finding = one(plan_of(split), "target-not-empty")
    assert Severity.BLOCKER is finding.severity
    assert "the shard clients is not empty: theirs" == finding.message


def test_encoding_collation_and_version_are_compared(
    clusters_by_major: Callable[[int], Cluster], split_of: Callable[..., Split], fresh_database: Callable[..., str]
) -> None:
    """Pitfall 51. A shard that cannot hold the source's texts blocks; one that sorts them otherwise is a warning."""
    newer, older = clusters_by_major(18), clusters_by_major(15)
    urls = {shard: fresh_database(older, shard) for shard in SHARDS}
    name = urls["clients"].rpartition("/")[2]
    execute(older.url(), f"DROP DATABASE {name}")
    execute(older.url(), f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    split = split_of(fresh_database(newer, "source"), urls, USERS, USERS_DDL)
    plan = plan_of(split)
    assert Severity.BLOCKER is one(plan, "target-encoding").severity
    assert "clients" in one(plan, "target-collation").message
    assert 3 == len([finding for finding in plan.findings if finding.code == "target-version"])
    assert Severity.WARNING is codes(plan)["target-version"]


def test_roles_that_a_shard_lacks_are_named(
    new_cluster: Callable[..., Cluster], split_of: Callable[..., Split], shard_urls: dict[str, str]
) -> None:
    """Owners and grantees of the source's tables, which the shards' servers do not know."""
    cluster = new_cluster()
    ddl = (
        "CREATE ROLE app_owner; CREATE ROLE app_reader; "
        "ALTER TABLE users OWNER TO app_owner; GRANT SELECT ON users TO app_reader;"
    )
    split = split_of(cluster.create_database("s"), shard_urls, USERS, USERS_DDL + ddl)
    missing = [finding for finding in plan_of(split).findings if finding.code == "target-role-missing"]
    assert 3 == len(missing)
    assert "has no role app_owner, app_reader" in missing[0].message


def test_a_role_of_a_policy_that_a_shard_lacks_is_a_blocker(
    new_cluster: Callable[..., Cluster], split_of: Callable[..., Split], shard_urls: dict[str, str]
) -> None:
    """A policy cannot be made without its role, and one that is left out may let too much be seen."""
    ddl = "CREATE ROLE auditor; CREATE POLICY own ON users AS RESTRICTIVE TO auditor USING (false);"
    split = split_of(new_cluster().create_database("s"), shard_urls, USERS, USERS_DDL + ddl)
    found = [finding for finding in plan_of(split).findings if finding.code == "target-policy-role-missing"]
    assert ["blocker"] * 3 == [finding.severity.value for finding in found]
    assert "auditor" in found[0].message


def test_data_in_tables_of_extensions_is_named(
    new_cluster: Callable[..., Cluster], split_of: Callable[..., Split], shard_urls: dict[str, str]
) -> None:
    """Pitfall 54. CREATE EXTENSION makes its tables, not the rows that somebody put into them."""
    cluster = new_cluster(major=18)  # the first that finds extensions outside its own directory
    directory = cluster.directory / "share" / "extension"
    directory.mkdir(parents=True)
    (directory / "kept.control").write_text("default_version = '1'\nrelocatable = true\n")
    (directory / "kept--1.sql").write_text("CREATE TABLE kept (a int); SELECT pg_extension_config_dump('kept', '');\n")
    for path in (directory.parent, directory, *directory.iterdir()):
        path.chmod(0o755)
    cluster.settings["extension_control_path"] = f"{directory.parent}:$system"
    cluster.restart()
    ddl = "CREATE EXTENSION kept; INSERT INTO kept VALUES (1);"
    split = split_of(cluster.create_database("s"), shard_urls, USERS, USERS_DDL + ddl)
    assert "kept: public.kept" in one(plan_of(split), "extension-data").message


@contextlib.contextmanager
def relay(server_port: int) -> Iterator[int]:
    """Relay connections to a server and tell each client another process id, as poolers do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=[listener, server_port], daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _accept(listener: socket.socket, server_port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=[client, server_port], daemon=True).start()


def _serve(client: socket.socket, server_port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", server_port)) as server:
        threading.Thread(target=_pass_on, args=[client, server], daemon=True).start()
        answers = server.makefile("rb")
        while head := answers.read(5):
            kind, size = struct.unpack(">cI", head)
            body = answers.read(size - 4)
            client.sendall(head + (struct.pack(">I", 1) + body[4:] if kind == b"K" else body))


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def test_a_pooler_before_source_and_shard_is_named(
    planned: Planner, source_cluster: Cluster, target_cluster: Cluster
) -> None:
    """Pitfall 46. Whoever invents process ids is not the server; nothing is counted through it."""
    split = planned().split
    plain = "?sslmode=disable&gssencmode=disable"
    with relay(source_cluster.port) as source_port, relay(target_cluster.port) as target_port:
        pooled = split.url.replace(f":{source_cluster.port}/", f":{source_port}/") + plain
        clients = split.shard_url("clients").replace(f":{target_cluster.port}/", f":{target_port}/") + plain
        plan = make_plan(other(split, clients=clients).shard_map, pooled)
    assert Severity.BLOCKER is codes(plan)["source-pooler"]
    assert "clients" in one(plan, "target-pooler").message
    assert [None] == [table.rows for table in plan.tables]


def test_pgbouncer_in_transaction_mode_is_named(planned: Planner, source_cluster: Cluster, tmp_path: Path) -> None:
    """Pitfall 46. The pooler that Fixia has."""
    split = planned().split
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "users.txt").write_text(f'"postgres" "{source_cluster.password}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={source_cluster.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {tmp_path}/users.txt\n"
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits\n"
    )
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    process = subprocess.Popen(
        ["pgbouncer", "-u", "nobody", str(tmp_path / "pgbouncer.ini")], stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        plan = make_plan(split.shard_map, split.url.replace(f":{source_cluster.port}/", f":{port}/"))
    finally:
        process.terminate()
        process.wait(10)
    assert Severity.BLOCKER is codes(plan)["source-pooler"]


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError

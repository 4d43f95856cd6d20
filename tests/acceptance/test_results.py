"""One migration from plan to abort, told as JSON: keys and types as the contract has them, and no secret anywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.fixtures.fix_program import Program, Shop, password_of

LSN = re.compile(r"^[0-9A-F]+/[0-9A-F]+$")
HEAD = {"schema_version": int, "migration": str, "status": str, "next_steps": list}

PLAN = {"tables": list, "findings": list, "cross_shard_references": list, "estimate": dict}
PLAN_TABLE = {"table": str, "rule": str, "follows": (str, list, type(None)), "rows": int, "bytes": int, "homes": dict}
FINDING = {"code": str, "severity": str, "table": (str, type(None)), "message": str, "hint": str}
COPY = {"rows": int, "bytes": int, "chunks": int, "epochs": int, "seconds": float, "snapshot_lsn": LSN}
TAIL = {"applied_lsn": LSN, "changes": int, "transactions": int, "seconds": float, "moved_rows": int}
VERIFY = {
    "at_lsn": LSN,
    "equal": bool,
    "tables": list,
    "differences": list,
    "references": list,
    "seconds": float,
}
VERIFY_TABLE = {"table": str, "shard": str, "source_rows": int, "target_rows": int, "equal": bool}
DIFFERENCE = {"table": str, "shard": str, "key": dict, "kind": str}
STATUS = {
    "phase": str,
    "writer": str,
    "epoch": int,
    "tables": list,
    "lag_bytes": int,
    "lag_s": (float, type(None)),
    "retained_wal_bytes": int,
    "slot": dict,
    "rates": dict,
    "eta_s": (float, type(None)),
}
EVENT = {"at": str, "actor": str, "event": str, "detail": dict}


def _hold(found: dict[str, Any], contract: dict[str, Any]) -> None:
    """Hold an object against names and types; more names are allowed, since fields may be added at any time."""
    for name, kind in contract.items():
        assert name in found
        if isinstance(kind, re.Pattern):
            assert kind.match(found[name]), f"{name} is {found[name]!r}"
        else:
            accepted = (float, int) if kind is float else kind
            assert isinstance(found[name], accepted), f"{name} is {found[name]!r}"


def _result(shop: Shop, *arguments: str, code: int = 0, status: str = "ok") -> dict[str, Any]:
    found: dict[str, Any] = shop.json(*arguments, code=code)
    _hold(found, HEAD)
    assert (1, "shop", status) == (found["schema_version"], found["migration"], found["status"])
    assert [] == [step for step in found["next_steps"] if not step.startswith("shardmig ")]
    return found


def _spoil(shop: Shop) -> None:
    """Change, drop and add a row on the shards behind the migration's back."""
    shop.sql("pros", "update users set name = 'other' where id = 2")
    shop.sql("clients", "delete from orders where user_id = 1")
    shop.sql("clients", "insert into settings values (99, 'mine')")


def test_every_result_keeps_the_contract(shop: Shop) -> None:
    """plan, schema diff, copy, tail, verify, status, events, abort: each the one object that scripts rely on."""
    plan = _result(shop, "plan")
    _hold(plan, PLAN)
    _hold(plan["estimate"], {"copy_s": float, "verify_s": float, "pause_s": float})
    for table in plan["tables"]:
        _hold(table, PLAN_TABLE)
    for finding in plan["findings"]:
        _hold(finding, FINDING)
    users = next(table for table in plan["tables"] if table["table"] == "users")
    assert {"pros": 200, "clients": 200} == {shard: home["rows"] for shard, home in users["homes"].items()}

    _hold(_result(shop, "copy"), COPY)
    pending = _result(shop, "schema", "diff", code=3, status="differences")["differences"]
    assert {"pros", "clients"} == set(pending)
    assert {True} == {line.startswith("pending ") for lines in pending.values() for line in lines}
    _hold(_result(shop, "tail", "--until", "caught-up"), TAIL)
    assert {"pros": [], "clients": []} == _result(shop, "schema", "diff")["differences"]
    _hold(equal := _result(shop, "verify"), VERIFY)
    assert equal["equal"]
    for table in equal["tables"]:
        _hold(table, VERIFY_TABLE)

    _hold(status := _result(shop, "status"), STATUS)
    assert ("verified", "source", 0) == (status["phase"], status["writer"], status["epoch"])

    _spoil(shop)
    differing = _result(shop, "verify", code=3, status="differences")
    assert not differing["equal"]
    for difference in differing["differences"]:
        _hold(difference, DIFFERENCE)
    assert {"missing", "differing", "extra"} == {found["kind"] for found in differing["differences"]}

    events = _result(shop, "events")["events"]
    for event in events:
        _hold(event, EVENT)
    assert "migration_created" == events[0]["event"]
    assert {"phase_changed", "verified", "barrier"} <= {event["event"] for event in events}
    assert isinstance(_result(shop, "--yes", "abort", "--drop-targets")["removed"], list)


def test_jsonl_is_one_line_and_text_names_the_next_command(shop: Shop) -> None:
    """The same result in the other two forms."""
    line = shop.run("-o", "jsonl", "plan").expect(0).stdout
    assert 1 == len(line.splitlines())
    _hold(json.loads(line), HEAD | PLAN)
    assert "next: shardmig copy" in shop.run("plan").expect(0).stdout.splitlines()


def test_an_error_is_one_json_object_with_message_hint_and_code(shop: Shop) -> None:
    """Refused, wrong mapping, server away: the object is the same, the exit code is in it."""
    refused = _result(shop, "tail", code=4, status="refused")
    assert {"message", "hint", "exit_code"} == set(refused["error"])
    assert 4 == refused["error"]["exit_code"]
    assert "shardmig plan, then shardmig copy" == refused["error"]["hint"]
    shop.env["CLIENTS_URL"] = re.sub(r":\d+/", ":1/", shop.urls["clients"])
    away = shop.json("status", code=75)
    assert ("temporary", 75) == (away["status"], away["error"]["exit_code"])
    shop.write_mapping("version: 1\nname: 7\n")
    assert "usage" == shop.json("status", code=2)["status"]


def test_status_before_and_during_a_migration_has_its_exit_codes(shop: Shop) -> None:
    """Nothing begun is no error; a problem is exit 1 only where --exit-code asks for it."""
    begun = _result(shop, "status")
    assert (None, "source") == (begun["phase"], begun["writer"])
    assert ["shardmig plan", "shardmig copy"] == begun["next_steps"]
    shop.run("copy").expect(0)
    shop.run("status", "--exit-code").expect(0)
    shop.sql("source", "select pg_drop_replication_slot('shardmig_shop')")
    shop.run("status").expect(0)
    told = shop.run("status", "--exit-code").expect(1)
    assert "problem     replication slot shardmig_shop is gone" in told.stdout
    _hold(_result(shop, "events"), {"events": list})
    lines = shop.run("events").expect(0).stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+@\S+ migration_created", lines[0])


def test_no_password_is_in_any_output_log_journal_or_session(shop: Shop) -> None:
    """With everything logged, through success and failure, neither we nor the servers' lists show a secret."""
    log = shop.directory / "log.jsonl"
    loud = ("-vv", "--log-file", str(log))
    shop.run(*loud, "plan").expect(0)
    running = shop.start(*loud, "copy", "--jobs", "1")
    names: set[str] = set()
    while running.process.poll() is None:
        names |= {row[0] for row in shop.sql("pros", "select application_name || query from pg_stat_activity")}
    running.end().expect(0)
    shop.run(*loud, "tail", "--until", "caught-up").expect(0)
    shop.run("-vv", "verify").expect(0)
    shop.sql("source", "insert into users values (1001, 'alien', 'x', 'y')")
    shop.run(*loud, "tail", "--until", "caught-up").expect(4)
    shop.env["PROS_URL"] = re.sub(r":\d+/", ":1/", shop.urls["pros"])
    shop.run(*loud, "tail").expect(75)
    shop.run("-o", "json", "-vv", "verify").expect(75)
    rows = _every_row_of_the_journal(shop)
    assert log.read_text().count("\n") > 5
    assert any("shardmig" in name for name in names)
    for url in shop.urls.values():
        assert password_of(url) not in log.read_text() + rows + "".join(names) + shop.all_said


def _every_row_of_the_journal(shop: Shop) -> str:
    with psycopg.connect(shop.urls["clients"]) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'shardmig'").fetchall()
        texts = [
            connection.execute(sql.SQL("select t::text from shardmig.{} t").format(sql.Identifier(name))).fetchall()
            for (name,) in tables
        ]
    assert {"event", "migration", "tail_state", "ddl"} <= {name for (name,) in tables}
    return str(texts)


def test_a_mistake_in_the_program_shows_a_line_and_its_traceback_only_when_asked(
    program: Program, tmp_path: Path
) -> None:
    """Exit 1 with a hint; the log has the traceback without local variables, which hold URLs."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import fixia_shardmig.mapping.schema as m\n"
        "def broken():\n    url = 'postgresql://u:local-secret@h/d'\n    raise RuntimeError(f'no {len(url)}')\n"
        "m.mapping_schema = broken\n"
    )
    program.env["PYTHONPATH"] = str(tmp_path)
    quiet = program.run("export", "mapping-schema").expect(1)
    assert "a mistake in the program itself: RuntimeError: no 31" == quiet.cause
    assert "-v for the traceback" in quiet.hint
    loud = program.run("-v", "--output", "json", "export", "mapping-schema").expect(1)
    assert "Traceback" in loud.stderr
    assert "failed" == loud.json["status"]
    program.run("--log-file", "log.jsonl", "export", "mapping-schema").expect(1)
    assert "RuntimeError" in (program.directory / "log.jsonl").read_text()
    assert "local-secret" not in program.all_said + (program.directory / "log.jsonl").read_text()


def test_pgbouncers_files_are_shown_or_written_and_never_overwritten(program: Program, tmp_path: Path) -> None:
    """`export pgbouncer` needs no server; what it writes is what PgBouncer starts with, in every test that has one."""
    (program.directory / "shardmig.yaml").write_text(
        "version: 1\nname: shop\nsource: {url: 'postgresql://u:secret@one/shop'}\n"
        "shards: {all: {url: 'postgresql://u:secret@two/all', journal: true}}\ntables: {}\n"
    )
    shown = program.run("--output", "json", "export", "pgbouncer").expect(0).json["files"]
    assert ["pgbouncer.ini", "shardmig.ini"] == sorted(shown)
    program.run("export", "pgbouncer", "--out", str(tmp_path / "out")).expect(0)
    assert shown == {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert "is there already" in program.run("export", "pgbouncer", "--out", str(tmp_path / "out")).expect(4).cause

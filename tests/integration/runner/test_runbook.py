"""The runbook is true: gates are those of now, commands are there, the SQL lifts a fence, and nothing is changed."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fixia_shardmig.cli.app import cli
from fixia_shardmig.cutover.fence import FenceKind, fence_state, lift_fence, raise_fence, seal_fence
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.runner.runbook import make_runbook, write_runbook
from fixia_shardmig.runner.switching import cut_over, roll_back
from tests.fixtures.fix_migrations import SHARDS, Migration
from tests.fixtures.fix_program import password_of

TABLES = """
users: {split_by: kind, homes: {n: north, s: south, w: west}}
kinds: {reference: true}
"""
DDL = """
CREATE TABLE kinds (id int PRIMARY KEY, name text);
CREATE TABLE users (id serial PRIMARY KEY, kind text NOT NULL, name text);
INSERT INTO users (kind, name) SELECT (ARRAY['n', 's', 'w'])[1 + g % 3], g::text FROM generate_series(1, 30) g;
"""
PAUSE_S = 20.0
STATE = """
SELECT (SELECT jsonb_agg(to_jsonb(e) ORDER BY id) FROM shardmig.event e), (SELECT to_jsonb(m) FROM shardmig.migration m)
"""
SCHEMA = """
SELECT count(*), max(c.oid::int8), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_subscription),
       (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_publication)
FROM pg_class c
"""
COMMAND = re.compile(r"`(shardmig [^`…]+)`")
GATE = re.compile(r"^\| (?P<name>[a-z_]+) \| (?P<state>open|\*\*CLOSED\*\*) \| (?P<detail>.*?) \| .*\|$", re.MULTILINE)


@pytest.fixture
def migration(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration that is not begun yet."""
    return migration_of(TABLES, DDL)


def page(migration: Migration) -> str:
    """Return the runbook, held to be quick, without a secret, of commands that are there, and a mere look."""
    before = everything(migration)
    began = time.monotonic()
    made = make_runbook(migration.context())
    assert time.monotonic() - began < 30
    assert before == everything(migration)
    for url in migration.urls.values():
        assert password_of(url) not in made.text
    for command in COMMAND.findall(made.text):
        parse(shlex.split(command)[1:])
    return made.text


def everything(migration: Migration) -> list[Any]:
    """Return what a runbook could have changed: relations, triggers, slots, the journal and its events."""
    found: list[Any] = [migration.on(place, SCHEMA) for place in ("source", *SHARDS)]
    if migration.on("west", "SELECT to_regclass('shardmig.migration')")[0][0]:
        found += migration.on("west", STATE)
    return found


def parse(words: list[str]) -> None:
    """Read a command line as the program would, without running it; what is not there raises."""
    name, *options = [word for word in words if word != "--yes"]
    command = cli.commands[name]
    command.make_context(name, options)


def blocks(text: str, heading: str) -> list[str]:
    """Return the blocks of SQL below a heading."""
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


def gates_in(text: str) -> Mapping[str, bool]:
    """Return the gates that a page shows, and whether they are open."""
    return {match["name"]: match["state"] == "open" for match in GATE.finditer(text)}


def marks(text: str) -> dict[str, str]:
    """Return what stands before each command: done, next or nothing."""
    rows = re.findall(r"^\| \d+ \| (.*?) \| `(.*?)` \|", text, re.MULTILINE)
    return {command: mark.strip("* ") for mark, command in rows}


def say_verified(migration: Migration) -> None:
    """Note that both sides were equal."""
    with migration.journal() as journal:
        at = journal.connection.execute("SELECT clock_timestamp()::text").fetchone()
        assert at is not None
        journal.add_evidence({"verified_at": at[0], "verified_equal": True, "verified_lsn": "0/1"})


def test_it_says_in_every_phase_what_is_done_and_what_comes_next(migration: Migration) -> None:
    """Before the copy, tailing, rehearsed, switched, rolled back; figures are estimates first and then measured."""
    text = page(migration)
    assert "Not begun: the source may write" in text
    assert "next" == marks(text)["shardmig plan"]
    assert "the plan's estimate" in text
    assert "not measured yet" in text

    migration.copy()
    text = page(migration)
    assert ("done", "next") == (marks(text)["shardmig copy"], marks(text)["shardmig verify"])
    assert not gates_in(text)["verified"]

    say_verified(migration)
    rehearsed = cut_over(migration.context(), dry_run=True, max_pause_s=PAUSE_S)
    assert all(gate.ok for gate in rehearsed.gates), rehearsed.gates
    text = page(migration)
    assert "(rehearsed " in text
    assert gates_in(text)["verified"]
    assert {gate.name for gate in rehearsed.gates} - {"drain"} == gates_in(text).keys()

    assert cut_over(migration.context(), max_pause_s=PAUSE_S).switched
    text = page(migration)
    assert "Phase switched; shards may write." in text
    assert "do not open the fence of the source" in text
    assert "done" == marks(text)["shardmig --yes cutover --max-pause 5s"]
    assert re.search(r"\| switch \| .* \| \d+ ms \(measured ", text)
    assert {"source_fence", "contested", "way_back"} <= gates_in(text).keys()
    assert "rollback` | possible" in text

    assert roll_back(migration.context(), max_pause_s=PAUSE_S).switched
    text = page(migration)
    assert "do not open the fences of the shards" in text
    assert "next" == marks(text)["shardmig --yes finalize"]
    assert "- problem: " not in text


def test_its_sql_lifts_a_raised_fence_and_refuses_a_sealed_one(migration: Migration) -> None:
    """Pitfall 63. What psql would be given is given to the server as it stands on the page."""
    migration.copy()
    tables = migration.context().shard_map.moved()
    text = page(migration)
    _, _, open_fence, drop_fence = blocks(text, "A fence by hand")
    with session(migration.urls["source"], "test") as source:
        raised: dict[str, Any] = {"migration": migration.context().shard_map.name, "owner": "test"}
        raise_fence(source, tables, **raised, expires_in_s=600, deadline=time.monotonic() + 20)
        assert re.search(r"\| source \| .* \| raised until ", page(migration))
        with pytest.raises(psycopg.Error, match="are paused"):
            migration.on("source", "DELETE FROM users")
        with pytest.raises(psycopg.Error, match="not open"):
            migration.on("source", drop_fence)
        migration.on("source", "ROLLBACK")
        seal_fence(source, **raised, deadline=time.monotonic() + 20)
        assert "do not open what is sealed (source)" in page(migration)
        with pytest.raises(psycopg.Error, match="sealed"):
            migration.on("source", open_fence)
        migration.on("source", "ROLLBACK")
        lift_fence(source, migration=raised["migration"], sealed=True)

        raise_fence(source, tables, **raised, expires_in_s=600, deadline=time.monotonic() + 20)
        migration.on("source", open_fence)
        migration.on("source", "INSERT INTO users (kind) VALUES ('n')")
        assert (FenceKind.OPEN, raised["migration"]) == ((state := fence_state(source)).kind, state.migration)
        migration.on("source", drop_fence)
        assert (FenceKind.NONE, ()) == ((state := fence_state(source)).kind, state.tables)


def test_it_names_who_is_in_the_way_and_what_does_not_answer(migration: Migration) -> None:
    """Lock holders, prepared transactions and those who wait; a shard that is away is a line and no error."""
    migration.copy()
    holder = migration.another_session()
    holder.execute("SET application_name = 'bill|ing'")
    with holder.transaction():
        holder.execute("LOCK TABLE users IN EXCLUSIVE MODE")
        text = page(migration)
        assert re.search(r"\| source \| holds a lock that a fence waits for \| pid \d+ \(bill\\\|ing, ", text)
    port = re.search(r":(\d+)/", migration.urls["north"])
    assert port is not None
    migration.mapping.write_text(
        migration.mapping.read_text().replace(migration.urls["north"], "postgresql://127.0.0.1:1/x")
    )
    text = make_runbook(migration.context()).text
    assert "- not known: north: " in text
    assert "Phase tailing; source may write." in text
    assert "None could be asked: not every server answers." in text


def test_the_poolers_part_is_there_where_the_mapping_has_one(migration: Migration) -> None:
    """Its console, its aliases and how to resume them by hand; one that does not answer is a closed gate, no error."""
    migration.copy()
    assert "PgBouncer's part" not in page(migration)
    aliases = ", ".join(f"{shard}: app_{shard}" for shard in SHARDS)
    url = "postgresql://adm:pooler-secret@127.0.0.1:1/pgbouncer"
    with migration.mapping.open("a", encoding="utf-8") as file:
        file.write(f"\npgbouncer: {{admin_url: '{url}', databases_file: /tmp/none.ini, aliases: {{{aliases}}}}}\n")
    text = page(migration)
    assert "pooler-secret" not in text
    assert not gates_in(text)["pooler_console"]
    (sql,) = blocks(text, "PgBouncer's part")
    assert [f'RESUME "app_{shard}";' for shard in SHARDS] == sql.splitlines()[2:]
    assert "psql 'host=127.0.0.1 port=1 user=adm dbname=pgbouncer'" in text


def test_a_page_in_a_file_is_whole_or_the_old_one(migration: Migration, tmp_path: Path) -> None:
    """It takes the old one's place at once, and where it cannot be written nothing is left over."""
    made = make_runbook(migration.context())
    out = tmp_path / "runbook.md"
    out.write_text("old", "utf-8")
    with out.open("r", encoding="utf-8") as reader:
        write_runbook(made, out)
        assert "old" == reader.read()
    assert made.text == out.read_text("utf-8")
    assert Phase.PLANNED is not made.phase
    with pytest.raises(RefusedError, match="cannot write"):
        write_runbook(made, tmp_path / "nowhere" / "runbook.md")
    assert [] == [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]

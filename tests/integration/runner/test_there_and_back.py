"""Clients of a real PgBouncer are led to the shards and back to the source, and meet two pauses and no error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg

from fixia_shardmig.demo.pooler import Pooler
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.runbook import make_runbook
from fixia_shardmig.runner.switching import cut_over, roll_back
from tests.fixtures.fix_migrations import SHARDS, Migration
from tests.fixtures.fix_pgbouncer import begin, section

TABLES = """
users: {split_by: kind, homes: {n: north, s: south, w: west}}
kinds: {reference: true}
"""
DDL = """
CREATE TABLE kinds (id int PRIMARY KEY, name text);
CREATE TABLE users (id serial PRIMARY KEY, kind text NOT NULL, name text);
INSERT INTO users (kind, name) SELECT (ARRAY['n', 's', 'w'])[1 + g % 3], g::text FROM generate_series(1, 30) g;
"""
ALIASES = {shard: f"app_{shard}" for shard in SHARDS}
PAUSE_S = 20.0
INSERT = "INSERT INTO users (kind, name) VALUES (%s, 'through the pooler') RETURNING id"


class Client(threading.Thread):
    """An application of one alias: inserts users of one kind over one connection, and treats no error."""

    def __init__(self, url: str, kind: str) -> None:
        """Know the alias only."""
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.committed: list[tuple[int, str]] = []
        self.failure: BaseException | None = None
        self._url, self._kind = url, kind

    def run(self) -> None:
        """Write until told to stop."""
        try:
            with psycopg.connect(self._url, autocommit=True, prepare_threshold=None) as connection:
                while not self.stopping.wait(0.002):
                    row = connection.execute(INSERT, [self._kind]).fetchone()
                    assert row is not None
                    self.committed.append((row[0], self._kind))
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.failure = error

    def writes_on(self) -> None:
        """Hold that it has committed more by and by."""
        before, deadline = len(self.committed), time.monotonic() + 20
        while len(self.committed) < before + 5 and self.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (None, True) == (self.failure, len(self.committed) >= before + 5)


@contextmanager
def writing(pooler: Pooler) -> Iterator[list[Client]]:
    """Have a client at each alias while the block runs."""
    clients = [Client(pooler.url(ALIASES[shard]), shard[0]) for shard in SHARDS]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stopping.set()
            client.join()
    assert [None] * len(clients) == [client.failure for client in clients]


def _behind(migration: Migration, pooler: Pooler) -> Context:
    """Put a PgBouncer before the source of a migration that is copied and found equal."""
    part = section(pooler, ALIASES)
    aliases = ", ".join(f"{shard}: {alias}" for shard, alias in ALIASES.items())
    text = migration.mapping.read_text()
    migration.mapping.write_text(
        f"{text}\npgbouncer: {{admin_url: '{part.admin_url}', databases_file: {part.databases_file},"
        f" aliases: {{{aliases}}}}}\n"
    )
    begin(pooler, migration.context().shard_map)
    migration.copy()
    with migration.journal() as journal:
        journal.add_evidence({"verified_at": datetime.now(UTC).isoformat(), "verified_equal": True})
    return migration.context()


def test_clients_of_a_pooler_go_there_and_back_and_the_runbook_follows_them(
    migration_of: Callable[..., Migration], pooler_of: Callable[..., Pooler]
) -> None:
    """Pitfalls 61, 62, 68. No client meets an error, each commit is on the source afterwards, exactly once.

    The runbook can be made at any moment, also in the pauses: it says who may write, and looks at the live PgBouncer.
    """
    pooler = pooler_of(min_pool_size="0")
    context = _behind(migration_of(TABLES, DDL), pooler)
    pages: dict[str, str] = {}

    def note(moment: str) -> Callable[[], None]:
        return lambda: pages.update({moment: make_runbook(context).text})

    with writing(pooler) as clients:
        there = cut_over(context, max_pause_s=PAUSE_S, on_drained=note("fenced"))
        assert (True, "") == (there.switched, there.unfinished), there
        for client in clients:
            client.writes_on()
        note("switched")()
        back = roll_back(context, max_pause_s=PAUSE_S, on_drained=note("rolling back"))
        assert (True, "") == (back.switched, back.unfinished), back
        for client in clients:
            client.writes_on()
    assert min(there.pause_ms, back.pause_ms) > 0
    with psycopg.connect(context.shard_map.source.url) as source:
        found = source.execute("SELECT id, kind FROM users WHERE name = 'through the pooler'").fetchall()
    assert sorted(row for client in clients for row in client.committed) == sorted(found)
    said = {"fenced": "Phase fenced; nobody may write", "switched": "Phase switched; shards may write"}
    said["rolling back"] = "Phase rolling_back; nobody may write"
    for moment, page in pages.items():
        assert said[moment] in page
        assert all(alias in page for alias in ALIASES.values())
        assert "app-secret" not in page
        assert "pooler_console | open" in page or moment in {"fenced", "rolling back"}

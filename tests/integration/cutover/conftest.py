"""A source of three tables and its three shards, with a journal, a slot and a stand-in for the tail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.cutover.result import CutoverOptions, Hands
from fixia_shardmig.cutover.way_back import forget_slots
from fixia_shardmig.journal.journal import Journal, prepare_shard, set_position
from fixia_shardmig.journal.records import Migration, TailState
from fixia_shardmig.mapping.shard_map import Endpoint, Follows, OnShard, Path, Rule, ShardMap, SplitByColumn
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.publications import create_publication
from fixia_shardmig.postgres.replication import Stream, replication_connection
from fixia_shardmig.postgres.sessions import insert_lsn, scalar, session
from fixia_shardmig.postgres.slots import create_slot, drop_slot, slot_state

USERS, ORDERS, VISITS = TableName("public", "users"), TableName("public", "orders"), TableName("public", "visits")
HOMES = {"professional": "professionals", "client": "clients", "admin": "shared"}

TABLES = """
CREATE TABLE users (id serial PRIMARY KEY, user_type text NOT NULL, name text);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL, what text);
CREATE TABLE visits (id int, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE visits_2024 PARTITION OF visits FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
"""
ROWS = """
INSERT INTO users (user_type, name)
SELECT (ARRAY['professional', 'client', 'admin'])[1 + n % 3], 'user ' || n FROM generate_series(1, 30) n;
INSERT INTO orders (user_id, what) SELECT 1 + n % 30, 'order ' || n FROM generate_series(1, 60) n;
INSERT INTO visits SELECT n, '2024-06-01'::date + n * 10 FROM generate_series(1, 40) n;
CREATE TABLE old_notes (id int PRIMARY KEY, note text);
"""
NEW_USERS = "SELECT id, user_type, name FROM public.users WHERE NOT id = ANY (%s) ORDER BY id"


@dataclass
class Arena:
    """A migration in phase VERIFIED, ready to be cut over."""

    shard_map: ShardMap
    source_url: str = field(repr=False)
    shard_urls: dict[str, str] = field(repr=False)
    follower: Follower = field(init=False)
    enabled: int = 0

    def __post_init__(self) -> None:
        """Make the stand-in for the tail; it does not run yet."""
        self.follower = Follower(self)

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Open a session on the journal."""
        with Journal(self.shard_urls["shared"], self.shard_map.name) as journal:
            yield journal

    def phase(self) -> Phase:
        """Return the phase, read by a session of its own."""
        with self.journal() as journal:
            return journal.get().phase

    def source(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run a statement on the source, as a client would."""
        return run(self.source_url, statement, *arguments)

    def hands(self, **more: Any) -> Hands:
        """Return what a runner would lend."""

        def enable() -> None:
            self.enabled += 1

        return replace(Hands(enable_on_shards=enable, conflicts=lambda: 0), **more)


def run(url: str, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    """Run one statement in a session of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def options(**more: Any) -> CutoverOptions:
    """Return options fit for a busy test machine."""
    return replace(CutoverOptions(max_pause_s=20.0, count_budget_s=5.0), **more)


class Follower:
    """Stands in for the tail: brings new users over, sets the shards' positions, publishes its state, reads the slot.

    What it reads after it has taken a position is past that position, as the fence has waited for every writer.
    """

    def __init__(self, arena: Arena) -> None:
        """Keep where to work."""
        self._arena = arena
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._paused = threading.Event()
        self._idle = threading.Event()
        self.stops_at_fence = False
        self.failure: BaseException | None = None
        self.conflicts = 0

    def start(self) -> None:
        """Begin, and return when the first state is published and the slot is active."""
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        with self._arena.journal() as journal:
            while journal.tail_state() is None:
                assert self.failure is None
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def pause(self) -> None:
        """Apply nothing more, and return when that is so; the slot is still read."""
        self._paused.set()
        assert self._idle.wait(20)

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  the test's own thread looks at it
            self.failure = error

    def _run(self) -> None:
        with ExitStack() as stack:
            source = stack.enter_context(session(self._arena.source_url, "follower"))
            journal = stack.enter_context(self._arena.journal())
            shards = {
                name: stack.enter_context(session(url, "follower")) for name, url in self._arena.shard_urls.items()
            }
            slot = journal.get().slot
            state = slot_state(source, slot)
            start = state.confirmed_flush_lsn if state and state.confirmed_flush_lsn else LSN(0)
            stream = Stream(self._arena.source_url, slot, start=start, publication=slot, purpose="follower")
            stack.callback(stream.close)
            seen = list(range(1, 31))  # a set and no maximum: ids commit in another order than they are given out
            while not self._stop.is_set():
                stream.read(1 << 20, 0.0)
                if self._paused.is_set():
                    self._idle.set()
                    time.sleep(0.01)
                    continue
                lsn = insert_lsn(source)
                if self.stops_at_fence and scalar(source, "SELECT to_regprocedure('shardmig.refuse_write()')::text"):
                    continue
                rows = source.execute(NEW_USERS, [seen]).fetchall()
                for name, connection in shards.items():
                    with connection.transaction():
                        for row in rows:
                            if HOMES[row[1]] == name:
                                connection.execute("INSERT INTO public.users VALUES (%s, %s, %s)", row)
                        set_position(connection, lsn)
                seen += [row[0] for row in rows]
                journal.tell_tail_state(self._state(lsn))
                if journal.get().phase is Phase.SWITCHED:
                    return
                time.sleep(0.005)

    def _state(self, lsn: LSN) -> TailState:
        return TailState(0.0, lsn, lsn, None, 0, 0, 0, self.conflicts, 0.0, "")


def shard_map_of(source_url: str, shard_urls: dict[str, str], **more: Any) -> ShardMap:
    """Return the mapping: users split, orders follow them, visits are shared's."""
    tables: dict[TableName, Rule] = {
        USERS: SplitByColumn("user_type", HOMES),
        ORDERS: Follows((Path(("user_id",), USERS, ("id",), declared=False),)),
        VISITS: OnShard("shared"),
    }
    return ShardMap(
        name="arena",
        file="",
        source=Endpoint(source_url),
        shards={name: Endpoint(url) for name, url in shard_urls.items()},
        journal_shard="shared",
        tables=tables,
        **more,
    )


def split_by_hand(source_url: str, shard_urls: dict[str, str]) -> None:
    """Make source and shards, each row at home."""
    run(source_url, TABLES + ROWS)
    with psycopg.connect(source_url) as source:
        users = source.execute("SELECT * FROM users").fetchall()
        orders = source.execute("SELECT * FROM orders").fetchall()
        visits = source.execute("SELECT * FROM visits").fetchall()
    home = {row[0]: HOMES[row[1]] for row in users}
    for name, url in shard_urls.items():
        run(url, TABLES if name == "shared" else TABLES.partition("CREATE TABLE visits")[0])
        with psycopg.connect(url) as shard:
            for row in users:
                if home[row[0]] == name:
                    shard.execute("INSERT INTO users VALUES (%s, %s, %s)", row)
            for row in orders:
                if home[row[1]] == name:
                    shard.execute("INSERT INTO orders OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s)", row)
            if name == "shared":
                for row in visits:
                    shard.execute("INSERT INTO visits VALUES (%s, %s)", row)
            prepare_shard(shard)


def begin(shard_map: ShardMap) -> None:
    """Make publication, slot and journal, in phase VERIFIED with a fresh comparison."""
    name = f"shardmig_{abs(hash(shard_map.source.url)) % 10**9}"
    with session(shard_map.source.url, "test") as source:
        catalog = read_catalog(source)
        create_publication(source, name, sorted(shard_map.moved()))
    with replication_connection(shard_map.source.url, "test") as walsender:
        create_slot(walsender, name)
    with Journal(shard_map.shards["shared"].url, shard_map.name) as journal:
        journal.create(
            Migration(
                name=shard_map.name,
                created_at=datetime.now(UTC),
                phase=Phase.VERIFIED,
                routing_epoch=0,
                mapping_fingerprint=shard_map.fingerprint(),
                catalog_fingerprint=catalog.fingerprint(shard_map.moved()),
                source_system=catalog.system_identifier,
                source_database=catalog.database,
                source_timeline=1,
                shard_names=shard_map.shard_names,
                slot=name,
                publication=name,
                slot_lsn=None,
                consistent_lsn=None,
                schema_stage="",
                evidence={},
            )
        )
        journal.note(schema_stage="done")
        journal.add_evidence(
            {"verified_at": datetime.now(UTC).isoformat(), "verified_equal": True, "verified_lsn": "0/1"}
        )


@pytest.fixture
def make_arena(source_url: str, shard_urls: dict[str, str]) -> Iterator[Callable[..., Arena]]:
    """Return a function that gives an arena; its arguments go into the mapping."""
    arenas: list[Arena] = []

    def make(**more: Any) -> Arena:
        split_by_hand(source_url, shard_urls)
        shard_map = shard_map_of(source_url, shard_urls, **more)
        begin(shard_map)
        arena = Arena(shard_map, source_url, shard_urls)
        arenas.append(arena)
        return arena

    yield make
    for arena in arenas:
        arena.follower.stop()
        with session(source_url, "test") as source, arena.journal() as journal:
            drop_slot(source, journal.get().slot)
            forget_slots(arena.shard_map, journal)


@pytest.fixture
def arena(make_arena: Callable[..., Arena]) -> Arena:
    """Give an arena whose follower runs."""
    made = make_arena()
    made.follower.start()
    return made


@pytest.fixture
def fenced_url(source_url: str) -> str:
    """Give a source with tables and rows, for the fence alone."""
    run(source_url, TABLES + ROWS)
    return source_url


def count(url: str, table: str) -> int:
    """Return how many rows a table has."""
    return int(run(url, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)).as_string())[0][0])

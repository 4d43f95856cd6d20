"""A small marketplace on its source and its shards, with a real journal in any phase, and routers to it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import conninfo
from sqlalchemy import event

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.journal.records import Migration
from fixia_shardmig.lookup import ShardRouter, Writer
from fixia_shardmig.model.phase import Phase
from tests.fixtures.fix_market import SplitMarket

MAPPING = Path(__file__).resolve().parents[3] / "mappings" / "fixia.yaml"
TO_SWITCHED = (Phase.COPYING, Phase.TAILING, Phase.FENCED, Phase.SWITCHED)


def new_migration(name: str = "fixia") -> Migration:
    """Return a migration as it begins."""
    return Migration(
        name=name,
        created_at=datetime.now(UTC),
        phase=Phase.PLANNED,
        routing_epoch=0,
        mapping_fingerprint="",
        catalog_fingerprint="",
        source_system="1",
        source_database="fixia",
        source_timeline=1,
        shard_names=("professionals", "clients", "shared"),
        slot="shardmig_fixia",
        publication="shardmig_fixia",
        slot_lsn=None,
        consistent_lsn=None,
        schema_stage="",
        evidence={},
    )


@dataclass
class Marketplace:
    """The split marketplace with its journal and the environment of an application."""

    market: SplitMarket
    env: dict[str, str] = field(repr=False)
    routers: list[ShardRouter] = field(default_factory=list[ShardRouter])

    def begin(self, name: str = "fixia") -> None:
        """Begin a migration in the journal."""
        with Journal(self.market.shard_urls["shared"], name) as journal:
            journal.create(new_migration(name))

    def advance(self, *phases: Phase) -> None:
        """Go on through phases; at the switch the routing epoch grows."""
        with Journal(self.market.shard_urls["shared"], "fixia") as journal:
            for phase in phases:
                now = journal.get()
                journal.advance(now.phase, phase)
                if phase is Phase.SWITCHED:
                    journal.note(routing_epoch=now.routing_epoch + 1)

    def router(self, writer: Writer | None = None) -> ShardRouter:
        """Return a new router, closed at the end of the test."""
        router = ShardRouter.from_mapping(MAPPING, self.env, writer=writer)
        self.routers.append(router)
        return router

    def one(self, place: str, query: str, *arguments: object) -> Any:
        """Return a query's single value on the source or a shard."""
        return self.market.run(place, query, *arguments)[0][0]

    def a_user(self, place: str) -> str:
        """Return the key of some user of a place."""
        return str(self.one(place, "select min(id) from users"))

    @property
    def password(self) -> str:
        """Return the password of the shards' URLs."""
        return str(conninfo.conninfo_to_dict(self.env["CLIENTS_DB_URL"])["password"])

    def copy_user(self, user: str, start: str, end: str) -> None:
        """Let a user's row be on two shards."""
        text = self.one(start, "select row_to_json(u)::text from users u where id = %s", user)
        self.market.run(end, "insert into users select * from json_populate_record(null::users, %s::json)", text)

    def move_user(self, user: str, start: str, end: str) -> None:
        """Move a user's row from one shard to another, by hand."""
        self.copy_user(user, start, end)
        self.market.run(start, "delete from users where id = %s", user)


@pytest.fixture
def marketplace(split_market: SplitMarket) -> Iterator[Marketplace]:
    """Give the marketplace without a journal; the source and the shards are equal."""
    urls = split_market.shard_urls
    env = {
        "PRIMARY_DATABASE_URL": split_market.source_url,
        "PROFESSIONALS_DB_URL": urls["professionals"],
        "CLIENTS_DB_URL": urls["clients"],
        "SHARED_DB_URL": urls["shared"],
    }
    made = Marketplace(split_market, env)
    yield made
    for router in made.routers:
        router.close()


@pytest.fixture
def switched(marketplace: Marketplace) -> Marketplace:
    """Give the marketplace after its switch."""
    marketplace.begin()
    marketplace.advance(*TO_SWITCHED)
    return marketplace


@pytest.fixture
def count_queries() -> Callable[[], Any]:
    """Return a context manager that counts what any engine executes meanwhile, by the database's name."""

    @contextmanager
    def counting() -> Iterator[Counter[str]]:
        counts: Counter[str] = Counter()
        lock = threading.Lock()

        def note(connection: sa.Connection, *_: object) -> None:
            driver: Any = connection.connection.driver_connection
            with lock:
                counts[driver.info.dbname.partition("_")[0]] += 1

        event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            yield counts
        finally:
            event.remove(sa.Engine, "before_cursor_execute", note)

    return counting

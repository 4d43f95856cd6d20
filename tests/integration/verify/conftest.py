"""A source and three shards as bare databases, filled by SQL that each test writes out, never by our own copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.mapping.shard_map import Endpoint, Rule, ShardMap
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.verify.result import VerifyResult
from fixia_shardmig.verify.snapshots import SnapshotRef
from fixia_shardmig.verify.verification import verify

SHARDS = ("professionals", "clients", "shared")
AT = LSN.parse("0/ABCDEF")


@dataclass(frozen=True)
class World:
    """URLs by side: `source` and the shards."""

    urls: Mapping[str, str]

    def run(self, side: str, statement: str) -> None:
        """Run SQL on one side, as an application would: with the server's default settings."""
        with psycopg.connect(self.urls[side], autocommit=True, client_encoding="utf-8") as connection:
            connection.execute(statement.encode())

    def everywhere(self, statement: str) -> None:
        """Run the same SQL on the source and on every shard."""
        for side in self.urls:
            self.run(side, statement)

    def shard_map(self, rules: Mapping[str, Rule]) -> ShardMap:
        """Return a mapping with rules by table name."""
        return ShardMap(
            name="test",
            file="test.yaml",
            source=Endpoint(self.urls["source"]),
            shards={shard: Endpoint(self.urls[shard]) for shard in SHARDS},
            journal_shard="shared",
            tables={TableName.parse(name): rule for name, rule in rules.items()},
        )

    def compare(self, rules: Mapping[str, Rule], **options: Any) -> VerifyResult:
        """Compare quiescent databases."""
        with session(self.urls["source"], "test") as connection:
            catalog = read_catalog(connection)
        return verify(
            self.shard_map(rules),
            catalog,
            source=SnapshotRef(self.urls["source"], None),
            shards={shard: SnapshotRef(self.urls[shard], None) for shard in SHARDS},
            at_lsn=AT,
            **options,
        )

    def differences(self, rules: Mapping[str, Rule], **options: Any) -> list[tuple[Any, ...]]:
        """Return (kind, shard, table, key, columns) of each difference, sorted, the key as its texts."""
        result = self.compare(rules, **options)
        assert result.differences_total == sum(difference.copies for difference in result.differences)
        return sorted(
            (found.kind, found.shard, str(found.table), tuple(found.key.values()), found.columns)
            for found in result.differences
        )


@pytest.fixture
def world(source_url: str, shard_urls: Mapping[str, str]) -> World:
    """Give an empty source and three empty shards of the newest version."""
    return World({"source": source_url, **shard_urls})


@pytest.fixture
def world_of(
    clusters_by_major: Callable[[int], Any], fresh_database: Callable[..., str]
) -> Callable[[int, int], World]:
    """Return a function (source's major, shards' major) that gives an empty world."""

    def create(source: int, shards: int) -> World:
        urls = {"source": fresh_database(clusters_by_major(source), "source")}
        return World(urls | {shard: fresh_database(clusters_by_major(shards), shard) for shard in SHARDS})

    return create


@pytest.fixture
def users(world: World) -> World:
    """Give a world with users of every kind and their services, all in place.

    Users: p1, p2 professional, c1, c2 client, a1 admin. Services follow their owner; the last one has none.
    """
    world.everywhere(
        "CREATE TABLE users (id text PRIMARY KEY, user_type text, name text);"
        "CREATE TABLE services (id int PRIMARY KEY, owner text, title text, price numeric)"
    )
    rows: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "professionals": (
            ("('p1','professional','Ana')", "('p2','professional',NULL)"),
            ("(1,'p1','paint',1.10)", "(2,'p1','roof',NULL)", "(3,'p2','',7)"),
        ),
        "clients": (("('c1','client','Carl')", "('c2','client','')"), ("(4,'c1','walk',3)",)),
        "shared": (("('a1','admin','Root')",), ("(5,NULL,'nobody',0)",)),
    }
    for shard, (of_users, of_services) in rows.items():
        for side in ("source", shard):
            world.run(side, f"INSERT INTO users VALUES {','.join(of_users)}")
            world.run(side, f"INSERT INTO services VALUES {','.join(of_services)}")
    return world


@pytest.fixture
def source_encoding(clusters_by_major: Callable[[int], Any]) -> Iterator[Callable[[World, str], World]]:
    """Return a function that gives a world a source (PostgreSQL 15) in another encoding."""
    made: list[str] = []
    cluster = clusters_by_major(15)

    def create(world: World, encoding: str) -> World:
        name = f"in_{encoding.lower()}"
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'"
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(encoding)))
        made.append(name)
        return World({**world.urls, "source": cluster.url(name)})

    yield create
    for name in made:
        cluster.drop_database(name)

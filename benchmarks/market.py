"""The demo's marketplace as a source for copy and verify: made once a run, read by all contenders, changed by none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from benchmarks import ours
from benchmarks.processes import run_apart
from benchmarks.race import say
from benchmarks.servers import Servers, row_counts, sizes, vacuum
from fixia_shardmig.demo.generator import populate
from fixia_shardmig.mapping.shard_map import Reference
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.runner.context import load

MAPPING = Path(__file__).parent.parent / "mappings" / "fixia.yaml"
SHARDS = {
    "professionals": "PROFESSIONALS_DB_URL",
    "clients": "CLIENTS_DB_URL",
    "shared": "SHARED_DB_URL",
}

USERS = {"small": 2_700, "full": 67_000, "large": 268_000}
"""About 22 kB of table data come with each user: 60 MB, 1.5 GB, 6 GB; nearly as much again in indexes."""


HALF_MADE = "half_made"
"""So a kept server's marketplace is called until all of it is there."""


@dataclass(frozen=True, slots=True)
class Market:
    """A populated source database, and what is in it."""

    servers: Servers
    url: str
    counts: dict[str, int]
    table_bytes: int
    index_bytes: int

    @property
    def rows(self) -> int:
        """Return the rows of all tables."""
        return sum(self.counts.values())

    def text(self) -> str:
        """Return a line that says what was copied."""
        return (
            f"The marketplace: {len(self.counts)} tables, {self.rows:,} rows, {self.table_bytes / 1e6:,.0f} MB of table"
            f" data, {self.index_bytes / 1e6:,.0f} MB of indexes; {self.servers.jobs} jobs for every contender."
        )

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Make an empty database on the target and yield its URL; it is dropped with the block."""
        try:
            yield self.servers.target.create_database(name)
        finally:
            self.servers.target.drop_database(name)

    @contextmanager
    def made_once(self, name: str, make: Callable[[str], object]) -> Iterator[str]:
        """Yield a database's URL that `make` has filled; on kept servers it stays, for the next run."""
        mark = self.servers.folder / f"{name}.made"
        if not mark.exists():
            self.servers.target.drop_database(name)
            make(self.servers.target.create_database(name))
            mark.touch()
        try:
            yield self.servers.target.url(name)
        finally:
            if not self.servers.kept:
                mark.unlink()
                self.servers.target.drop_database(name)

    @contextmanager
    def migrated_once(self, prefix: str) -> Iterator[ours.Migration]:
        """Yield a migration that has copied everything and caught up; on kept servers it stays as it is."""
        mark = self.servers.folder / f"{prefix}.made"
        urls = {shard: self.servers.target.url(f"{prefix}_{shard}") for shard in SHARDS}
        migration = self._migration(urls)
        if not mark.exists():
            for shard in SHARDS:
                self.servers.target.drop_database(f"{prefix}_{shard}")
                self.servers.target.create_database(f"{prefix}_{shard}")
            run_apart(ours.migrate, migration, self.servers.jobs)
            for url in urls.values():
                vacuum(url)  # else whoever scans first writes the hint bits
            mark.touch()
        try:
            yield migration
        finally:
            if not self.servers.kept:
                mark.unlink()
                ours.clear(migration)
                for shard in SHARDS:
                    self.servers.target.drop_database(f"{prefix}_{shard}")

    def _migration(self, urls: dict[str, str]) -> ours.Migration:
        variables = {"PRIMARY_DATABASE_URL": self.url} | {SHARDS[shard]: url for shard, url in urls.items()}
        return ours.Migration(MAPPING, variables, urls)

    @contextmanager
    def migration(self, prefix: str) -> Iterator[ours.Migration]:
        """Make three empty shards for a migration; at the end nothing of it is left on either side."""
        with ours.shard_databases(self.servers, prefix, SHARDS) as urls:
            migration = self._migration(urls)
            try:
                yield migration
            finally:
                ours.clear(migration)

    def check(self, who: str, *target_urls: str, migration: ours.Migration | None = None) -> None:
        """Refuse a result that has not every row; a shard's reference tables count once a shard."""
        found = dict.fromkeys(self.counts, 0)
        for url in target_urls:
            for table, count in row_counts(url).items():
                found[table] = found.get(table, 0) + count
        expected = self.counts if migration is None else _on_shards(self.counts, migration)
        wrong = {table: (expected.get(table), count) for table, count in found.items() if count != expected.get(table)}
        if wrong:
            raise ShardmigError(f"{who} has other row counts than the source: {wrong}", hint="its time says nothing")


def _on_shards(counts: dict[str, int], migration: ours.Migration) -> dict[str, int]:
    rules = load(migration.mapping, env=migration.variables).shard_map.tables
    copies = {
        table: len(migration.shard_urls) if isinstance(rules[TableName("public", table)], Reference) else 1
        for table in counts
    }
    return {table: count * copies[table] for table, count in counts.items()}


def _run(servers: Servers, statement: LiteralString, *names: sql.Composable) -> int:
    with psycopg.connect(servers.source.url(), autocommit=True) as connection:
        return connection.execute(sql.SQL(statement).format(*names)).rowcount


@contextmanager
def market(servers: Servers, *, users: int) -> Iterator[Market]:
    """Open the marketplace; its hint bits are set and its pages read, so that nobody pays for having come first."""
    url = servers.source.url(name := f"market_{users}")
    if not _run(servers, "SELECT FROM pg_database WHERE datname = {}", sql.Literal(name)):
        say(f"a marketplace with {users:,} users is made")
        servers.source.drop_database(HALF_MADE)
        half_made = servers.source.create_database(HALF_MADE)
        populate(half_made, users=users)
        vacuum(half_made)
        _run(servers, "ALTER DATABASE {} RENAME TO {}", sql.Identifier(HALF_MADE), sql.Identifier(name))
    counts = row_counts(url)
    made = Market(servers, url, counts, *sizes(url))
    say(f"  {made.text()}")
    yield made

"""Hundreds of seeded corruptions of every kind, in every table of the marketplace and of schemas that are awkward.

Each split is spoilt in all its tables at once and compared once: all of it has to be found and rightly named, and
nothing else may be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.verify.result import VerifyResult
from fixia_shardmig.verify.snapshots import SnapshotRef
from fixia_shardmig.verify.verification import verify
from tests.fixtures.fix_market import SplitMarket
from tests.integration.verify.mutations import KINDS, Found, Spoiler

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ROOT / "tests" / "acceptance" / "schemas"
AWKWARD_SHARDS = ("north", "south", "hub")
EVERY = "every"
WITHOUT_TRIGGERS = "-c session_replication_role=replica"


@pytest.mark.parametrize("seed", [1, 2])
def test_all_corruptions_of_the_marketplace_are_found_and_nothing_else(split_market: SplitMarket, seed: int) -> None:
    """Pitfalls 51, 55, 56, 57: five kinds in each of its tables; a row is named once, with shard, columns and home."""
    env = {
        "PRIMARY_DATABASE_URL": split_market.source_url,
        **{f"{shard.upper()}_DB_URL": url for shard, url in split_market.shard_urls.items()},
    }
    context = load(ROOT / "mappings" / "fixia.yaml", env=env)
    assert _compare(context).equal
    with _spoiling({"source": split_market.source_url, **split_market.shard_urls}, seed) as spoiler:
        spoiler.spoil(_names(context))
        _check(spoiler, _compare(context))
    by_kind = Counter(kind for kind, *_ in spoiler.expected)
    assert set(KINDS) == set(by_kind)
    assert spoiler.expected.total() >= 130, by_kind
    assert set(_names(context).values()) == {table for _, _, table, *_ in spoiler.expected} | _empty_tables(
        split_market
    )


@pytest.mark.parametrize("name", ["forum", "rental", "tenants", "newest"])
def test_all_corruptions_of_an_awkward_schema_are_found_and_nothing_else(
    name: str, source_cluster: Cluster, fresh_database: Callable[..., str]
) -> None:
    """Pitfalls 24, 31, 32, 50, 52, 56: no keys, partitions, heirs, generated columns, names and types of every sort."""
    urls = _split(SCHEMAS / name, source_cluster, fresh_database)
    env = {f"{side.upper()}_URL": url for side, url in urls.items()}
    context = load(SCHEMAS / name / "mapping.yaml", env=env)
    before = _compare(context)
    assert [] == list(before.differences)
    with _spoiling(urls, len(name)) as spoiler:
        spoiler.spoil(_names(context))
        _check(spoiler, _compare(context))
    kinds = {kind for kind, *_ in spoiler.expected}
    assert set(KINDS) == kinds
    assert spoiler.expected.total() >= 3 * len({table for _, _, table, *_ in spoiler.expected})


def _check(spoiler: Spoiler, result: VerifyResult) -> None:
    found: Counter[Found] = Counter()
    for one in result.differences:
        found[one.kind, one.shard, str(one.table), tuple(one.key.values()), one.columns, one.home] += one.copies
    assert Counter() == spoiler.expected - found, "not found"
    assert Counter() == found - spoiler.expected, "found, but not there"
    assert spoiler.expected.total() == result.differences_total
    assert not result.equal


def _compare(context: Context) -> VerifyResult:
    shards = {shard: SnapshotRef(endpoint.url, None) for shard, endpoint in context.shard_map.shards.items()}
    source = SnapshotRef(context.shard_map.source.url, None)
    return verify(context.shard_map, context.catalog, source=source, shards=shards, at_lsn=LSN(1), jobs=2)


def _names(context: Context) -> Mapping[str, str]:
    return {f"{table.schema}.{table.name}": str(table) for table in context.shard_map.moved()}


@contextmanager
def _spoiling(urls: Mapping[str, str], seed: int) -> Iterator[Spoiler]:
    spoiler = Spoiler(urls, seed)
    try:
        yield spoiler
    finally:
        spoiler.close()


def _empty_tables(market: SplitMarket) -> set[str]:
    with psycopg.connect(market.source_url) as source:
        names = [name for (name,) in source.execute("select tablename from pg_tables where schemaname = 'public'")]
        return {name for name in names if source.execute(f'select 1 from "{name}" limit 1'.encode()).fetchone() is None}


def _split(folder: Path, cluster: Cluster, fresh_database: Callable[..., str]) -> dict[str, str]:
    """Make a source with its rows, and each shard as a copy of it without the rows that homes.sql puts elsewhere."""
    urls = {"source": fresh_database(cluster, "source")}
    files = [folder / "roles.sql", folder / "schema.sql", folder / "rows.sql"]
    for file in files:
        if file.exists():
            with psycopg.connect(urls["source"], autocommit=True) as connection:
                connection.execute(file.read_bytes())
    template = conninfo_to_dict(urls["source"])["dbname"]
    blocks = re.findall(
        r"^-- (helper|table: .*?)\n(.*?)(?=^-- (?:helper|table: )|\Z)",
        (folder / "homes.sql").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    for shard in AWKWARD_SHARDS:
        urls[shard] = fresh_database(cluster, shard, template)
        with psycopg.connect(urls[shard], autocommit=True, options=WITHOUT_TRIGGERS) as connection:
            _keep_only(connection, shard, blocks)
    return urls


def _keep_only(connection: psycopg.Connection, shard: str, blocks: list[tuple[str, str]]) -> None:
    helpers = [text for title, text in blocks if title == "helper"]
    tables = {title.removeprefix("table: "): text for title, text in blocks if title != "helper"}
    for helper in helpers:
        connection.execute(helper.encode())
    connection.execute("CREATE TEMP TABLE elsewhere (name text, whole text)")
    for name, query in tables.items():
        rows = f"SELECT %s, concat(q.z) FROM ({query.replace('%', '%%')}) AS q(z, home) WHERE q.home NOT IN (%s, %s)"
        connection.execute(f"INSERT INTO elsewhere {rows}".encode(), (name, shard, EVERY))
    for name in tables:
        root = connection.execute(
            "SELECT 1 FROM pg_partitioned_table WHERE partrelid = %s::regclass", (name,)
        ).fetchone()
        of = ("" if root else "ONLY ") + name.replace("%", "%%")
        deletion = f'DELETE FROM {of} AS "a row" USING elsewhere AS e WHERE concat("a row") = e.whole AND e.name = %s'
        connection.execute(deletion.encode(), (name,))

"""The database with one of everything, split in two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_split import Split

EVERYTHING = Path(__file__).with_name("everything.sql").read_text("utf-8")
TABLES = """
  users: {split_by: user_type, homes: {client: clients, professional: shared, dual: shared, admin: shared}}
  services: {follows: user_id}
  templates: {shard: shared}
  template_uses: {follows: user_id, otherwise: shared}
  template_notes: {shard: shared}
  extra.events: {split_by: {sql: "case when id % 2 = 0 then 'clients' else 'shared' end"}}
  nopk: {shard: clients}
  byidx: {reference: true}
  '"Odd ""Name"': {reference: true}
  excl: {reference: true}
  emp: {split_by: {sql: "case when id < 100 then 'clients' else 'shared' end"}}
  notvalid: {follows: u, otherwise: shared}
  parent_i: {reference: true}
  child_i: {reference: true}
  cl: {skip: "kept for the test"}
"""


@pytest.fixture
def everything(
    clusters_by_major: Callable[[int], Cluster],
    fresh_database: Callable[..., str],
    split_of: Callable[..., Split],
) -> Callable[..., Split]:
    """Return a function (source major, target major) that gives the split of one of everything into two shards."""

    def make(source_major: int = 15, target_major: int = 15) -> Split:
        source, target = clusters_by_major(source_major), clusters_by_major(target_major)
        source_url = fresh_database(source, "everything")
        shard_urls = {shard: fresh_database(target, shard) for shard in ("clients", "shared")}
        _create_role(source)
        _create_role(target)
        return split_of(source_url, shard_urls, TABLES, EVERYTHING)

    return make


def _create_role(cluster: Cluster) -> None:
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'app_x'").fetchone():
            connection.execute("CREATE ROLE app_x")

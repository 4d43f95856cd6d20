"""Whole migrations of schemas that are not Fixia's, each as awkward as real ones are, between versions of PostgreSQL.

A schema is a folder of `schemas/`: its DDL, rows, mapping, the changes that go on meanwhile, and `homes.sql`, which
says in its own words where each row belongs. That file is the oracle: nothing of the program is asked where rows live.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.copying import CopyOptions, copy
from fixia_shardmig.runner.ending import abort
from fixia_shardmig.runner.planning import make, propose_mapping
from fixia_shardmig.runner.schemas import diff_schemas
from fixia_shardmig.runner.tailing import tail
from fixia_shardmig.runner.verifying import verify_now
from fixia_shardmig.verify.render import render_text
from tests.acceptance import key_schema

SCHEMAS = Path(__file__).parent / "schemas"
SHARDS = ("north", "south", "hub")
EVERY = "every"
"""Stands in homes.sql for the home of a reference table's rows."""

SMALL_CHUNKS_BYTES = 16 * 1024
BOTH_WAYS = ("forum", "rental", "tenants")
MIGRATIONS = [
    *((name, before, after) for name in BOTH_WAYS for before, after in ((15, 18), (18, 15), (18, 18))),
    ("keys", 15, 18),  # written by key_schema
    ("newest", 18, 18),  # what only PostgreSQL 18 knows
]


@dataclass(frozen=True)
class Case:
    """One schema with its databases."""

    folder: Path
    source: str
    shards: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        """Return the variables of mapping.yaml."""
        return {"SOURCE_URL": self.source} | {f"{name.upper()}_URL": url for name, url in self.shards.items()}

    def load(self) -> Context:
        """Read the mapping against the source as it is."""
        return load(self.folder / "mapping.yaml", env=self.env)

    def text(self, name: str) -> str:
        """Return a file of the schema."""
        return (self.folder / name).read_text("utf-8")

    def change(self, phase: str) -> None:
        """Run one phase of changes.sql on the source, each of its parts as one transaction."""
        phases = dict(
            re.findall(r"^-- phase: (.*?)\n(.*?)(?=^-- phase: |\Z)", self.text("changes.sql"), re.MULTILINE | re.DOTALL)
        )
        for part in re.split(r"^-- then.*$", phases[phase], flags=re.MULTILINE):
            run(self.source, part)


@pytest.fixture
def case_of(
    tmp_path: Path,
    clusters_by_major: Callable[[int], Cluster],
    second_newest: Cluster,
    fresh_database: Callable[..., str],
) -> Callable[[str, int, int], Case]:
    """Return a function (schema, source's major, shards' major) that gives it with its rows, and empty shards."""

    def make_case(name: str, before: int, after: int) -> Case:
        folder = SCHEMAS / name
        if name == "keys":
            folder = tmp_path
            key_schema.write(folder)
        source_cluster = clusters_by_major(before)
        target_cluster = second_newest if before == after else clusters_by_major(after)
        source = fresh_database(source_cluster, "source")
        if (folder / "roles.sql").exists():
            for cluster in (source_cluster, target_cluster):
                run(cluster.url(), (folder / "roles.sql").read_text("utf-8"))
        run(source, (folder / "schema.sql").read_text("utf-8"))
        run(source, (folder / "rows.sql").read_text("utf-8"))
        return Case(folder, source, {shard: fresh_database(target_cluster, shard) for shard in SHARDS})

    return make_case


@pytest.fixture(scope="session")
def second_newest(target_cluster: Cluster) -> Cluster:
    """Give a server of the newest version that is not the source's."""
    return target_cluster


@pytest.mark.parametrize(("name", "before", "after"), MIGRATIONS)
def test_a_schema_is_split_without_losing_or_misplacing_a_row(
    case_of: Callable[[str, int, int], Case], name: str, before: int, after: int
) -> None:
    """Whatever the tables look like: no blocker, every row at home, changes of all phases too, and nothing left."""
    case = case_of(name, before, after)
    empty = leftovers(case)
    assert [] == [str(f.message) for f in make(case.load()).findings if f.severity.value == "blocker"]

    copy(case.load(), CopyOptions(chunk_bytes=SMALL_CHUNKS_BYTES))
    case.change("before the tail")
    with meanwhile(lambda: case.change("during the tail")):
        tail(case.load(), caught_up=True)
    tail(case.load(), caught_up=True)
    assert "" == shown(misplaced(case))
    assert [] == found_by_verify(case)
    case.change("after the indexes")
    tail(case.load(), caught_up=True)
    assert "" == shown(misplaced(case))
    assert [] == found_by_verify(case)
    assert {shard: [] for shard in SHARDS} == diff_schemas(case.load())

    abort(case.load(), drop_targets=True)
    assert empty == leftovers(case)


@pytest.mark.parametrize("name", [*BOTH_WAYS, "keys", "newest"])
def test_a_proposal_for_a_schema_passes_its_own_check(
    case_of: Callable[[str, int, int], Case], name: str, tmp_path: Path
) -> None:
    """What `init` writes for a database is a mapping that the check accepts, with the shards' databases named."""
    case = case_of(name, 18, 18)
    text = propose_mapping(case.source, name="proposed", shards=SHARDS)
    (tmp_path / "shardmig.yaml").write_text(text, "utf-8")
    urls = {shard.upper(): url for shard, url in case.shards.items()}
    env = {name: urls.get(name.split("_")[0], case.source) for name in re.findall(r"\$\{(\w+)", text)}
    with session(case.source, "test") as connection:
        shard_map = check_mapping(read_mapping(tmp_path / "shardmig.yaml", env), read_catalog(connection))
    assert SHARDS == shard_map.shard_names


def run(url: str, text: str) -> None:
    """Run SQL as one simple query, as psql -1 would."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(text.encode())


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Let work go on in another thread while the block runs; its error is the block's."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
        future.result()


def found_by_verify(case: Case) -> list[str]:
    """Return what `shardmig verify` finds to differ."""
    result = verify_now(case.load())
    return [] if result.equal else [*map(str, result.differences), render_text(result)]


def misplaced(case: Case) -> dict[str, dict[str, list[str]]]:
    """Return the rows that are too many (+) or missing (-) on a shard, by table."""
    helpers, tables = _homes(case.text("homes.sql"))
    with psycopg.connect(case.source, autocommit=True) as source:
        for helper in helpers:
            source.execute(helper.encode())
        expected = {table: _expected(source, query) for table, query in tables.items()}
    found: dict[str, dict[str, list[str]]] = {}
    for shard, url in case.shards.items():
        with psycopg.connect(url, autocommit=True) as connection:
            for table, rows in expected.items():
                actual = _rows(connection, table)
                wrong = [f"+{row}" for row in actual - rows[shard]] + [f"-{row}" for row in rows[shard] - actual]
                if wrong:
                    found.setdefault(table, {})[shard] = sorted(wrong)
    return found


def _homes(text: str) -> tuple[list[str], dict[str, str]]:
    """Return the statements to run first, and by table a query for (row, home)."""
    blocks = re.findall(r"^-- (helper|table: .*?)\n(.*?)(?=^-- (?:helper|table: )|\Z)", text, re.MULTILINE | re.DOTALL)
    helpers = [block for title, block in blocks if title == "helper"]
    return helpers, {title.removeprefix("table: "): block for title, block in blocks if title != "helper"}


def _expected(source: psycopg.Connection, query: str) -> dict[str, Counter[str]]:
    rows: dict[str, Counter[str]] = {shard: Counter() for shard in SHARDS}
    counted = f"SELECT concat(q.r), q.home, count(*) FROM ({query}) AS q(r, home) GROUP BY 1, 2"
    for row, home, count in source.execute(counted.encode()):
        for shard in SHARDS if home == EVERY else (home,):
            rows[shard][row] = count
    return rows


def _rows(connection: psycopg.Connection, table: str) -> Counter[str]:
    """Return a table's rows as text, counted; none where there is no such table."""
    found = connection.execute(
        "SELECT n.nspname, c.relname, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = to_regclass(%s)",
        (table,),
    ).fetchone()
    if found is None:
        return Counter()
    only = sql.SQL("" if found[2] else "ONLY ")
    query = sql.SQL("SELECT concat(whole), count(*) FROM {}{} AS whole GROUP BY 1").format(
        only, sql.Identifier(*found[:2])
    )
    return Counter(dict(connection.execute(query).fetchall()))


def leftovers(case: Case) -> dict[str, list[str]]:
    """Return the names of everything in the source and the shards that a migration could leave behind."""
    query = """
        SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'relation ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        UNION ALL SELECT 'type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        UNION ALL SELECT 'extension ' || extname FROM pg_extension
        ORDER BY 1
    """
    found = {}
    for name, url in {"source": case.source, **case.shards}.items():
        with psycopg.connect(url, autocommit=True) as connection:
            found[name] = [row[0] for row in connection.execute(query)]
    return found


def shown(found: dict[str, dict[str, list[str]]]) -> str:
    """Return misplaced rows as text, the first few of each table and shard."""
    return "\n".join(
        f"{table} on {shard}: {len(rows)} rows: {' '.join(rows[:5] + rows[-5:])}"
        for table, shards in found.items()
        for shard, rows in shards.items()
    )

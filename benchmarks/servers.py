"""The two clusters of a run and the settings that all contenders share.

Source and targets are two servers on one machine, as the demo has them. Everything lies in one temporary directory and
is gone at the end, however the run ends; or in a directory that is kept, where the next run finds the source as it is.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.processes import libpq_environment, run_program
from fixia_shardmig.demo.clusters import Cluster, find_binaries
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.runner.context import SPOOL_VARIABLE

MAJOR = 15
"""The newest version that Debian 12's pgcopydb and its client programs know."""

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "maintenance_work_mem": "256MB",
    "max_replication_slots": "60",
    "max_wal_senders": "60",
    "max_worker_processes": "32",
    "max_logical_replication_workers": "16",
    "wal_retrieve_retry_interval": "200ms",
}
"""Of both clusters. The last one is 5 s by default, which a subscription would wait before its work begins."""

_TABLES = """
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = 'public' ORDER BY pg_table_size(c.oid) DESC, 1
"""

_SIZE = """
SELECT coalesce(sum(pg_table_size(c.oid)), 0)::int8, coalesce(sum(pg_indexes_size(c.oid)), 0)::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = 'public'
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Two running clusters and a directory for the contenders' files; `kept` if the next run finds them again."""

    source: Cluster
    target: Cluster
    folder: Path
    jobs: int
    kept: bool = False

    def calm(self) -> None:
        """Write out what earlier work left behind, so that no contender pays for another."""
        for cluster in (self.source, self.target):
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                connection.execute("CHECKPOINT")


def settings_of(jobs: int) -> dict[str, str]:
    """Return the settings of both clusters when every contender has so many jobs."""
    return SETTINGS | {"max_sync_workers_per_subscription": str(jobs)}


@contextmanager
def servers(jobs: int, *, keep: Path | None = None) -> Iterator[Servers]:
    """Start both clusters; stop them at the end, whatever happens, and remove what is not to be kept."""
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="shardmig-bench-", ignore_cleanup_errors=True)
        place = keep.resolve() if keep else Path(stack.enter_context(folder))
        place.mkdir(exist_ok=True)
        place.chmod(0o755)  # the servers run as another user where we are root
        os.environ[SPOOL_VARIABLE] = str(place)  # also for the processes that are measured
        source, target = (stack.enter_context(_cluster(place / name, jobs)) for name in ("source", "target"))
        yield Servers(source, target, place, jobs, kept=keep is not None)


def _cluster(place: Path, jobs: int) -> Cluster:
    """Return a cluster that is new, or that an earlier run has kept with its password beside it."""
    secret = place.with_suffix(".password")
    if secret.exists():
        kept = Cluster(place, major=MAJOR, settings=settings_of(jobs), port=None)
        kept.password = secret.read_text("utf-8")
        return kept
    made = Cluster.create(place, major=MAJOR, settings=settings_of(jobs))
    secret.touch(mode=0o600)
    secret.write_text(made.password, "utf-8")
    return made


def program(name: str) -> Path:
    """Return a client program of the clusters' version."""
    path = find_binaries()[MAJOR] / name
    if not path.exists():
        raise RefusedError(f"{name} of PostgreSQL {MAJOR} is missing", hint=f"apt-get install postgresql-{MAJOR}")
    return path


def tables(url: str) -> list[str]:
    """Return the tables of the public schema, the largest first."""
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute(_TABLES)]


def sizes(url: str) -> tuple[int, int]:
    """Return the bytes of all tables with their TOAST, and of all indexes."""
    with psycopg.connect(url) as connection:
        found = connection.execute(_SIZE).fetchone()
    return found or (0, 0)


def row_counts(url: str) -> dict[str, int]:
    """Return how many rows each table of the public schema has."""
    with psycopg.connect(url) as connection:
        return {name: _count(connection, name) for name in tables(url)}


def _count(connection: psycopg.Connection, name: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("public", name))
    found = connection.execute(query).fetchone()
    return found[0] if found else 0


def vacuum(url: str) -> None:
    """Freeze and analyze a database, so that no scan has to write and every plan is as good as it gets."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")


def copy_schema(source_url: str, target_url: str, *, folder: Path, section: str | None = None) -> None:
    """Make a database's definitions in another one, all of them or one of pg_dump's sections."""
    wanted = ["--schema-only"] if section is None else [f"--section={section}"]
    dump, _ = run_program([program("pg_dump"), *wanted], environment=libpq_environment(source_url), cwd=folder)
    run_program(
        [program("psql"), "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1"],
        environment=libpq_environment(target_url),
        cwd=folder,
        input_text=dump,
    )

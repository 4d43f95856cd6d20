"""Gathers the planner's statistics of a shard's tables, several tables at once, the largest first (pitfall 58).

A partition is analyzed with its root; the server's own catalogs are left to its autovacuum.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import LiteralString

from psycopg import sql

from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.schema.impatience import press_autovacuum

_TABLES: LiteralString = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY pg_relation_size(c.oid) DESC, 1, 2
"""


def analyze(url: str, *, jobs: int) -> None:
    """Analyze every table of a shard, up to `jobs` at once; the first failure is raised after the others have ended."""
    waiting: SimpleQueue[tuple[str, str]] = SimpleQueue()
    with session(url, "analyze") as connection:
        for name in connection.execute(_TABLES):
            waiting.put(name)
    sessions = max(1, min(jobs, waiting.qsize()))
    with ThreadPoolExecutor(sessions, thread_name_prefix="analyze") as pool:
        for ended in [pool.submit(_analyze_each, url, waiting) for _ in range(sessions)]:
            ended.result()


def _analyze_each(url: str, waiting: SimpleQueue[tuple[str, str]]) -> None:
    """Take table after table. A commit need not reach the disk: who is told that all is done commits after it."""
    with session(url, "analyze") as connection:
        connection.execute("SET synchronous_commit = off")
        press_autovacuum(connection)
        while True:
            try:
                name = waiting.get_nowait()
            except Empty:
                return
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*name)))

"""Decides how much memory and how many workers of the server a build of an index gets. Pure."""

from __future__ import annotations

import math
import re

from fixia_shardmig.schema.shard_schema import Statement

TOGETHER_MB_MAX = 1024
ONE_MB_MAX = 512
"""For what hashes, or fills an index as it goes: more is better; the builds of one stage stay within 1 GB together."""

SORT_MB_MIN = 4
"""For what is sorted. A sort that stays within the processor's caches and merges its runs takes half of the processor's
time of one in 512 MB, and four fifths of that of one in 16 MB (1.5 GB of tables with text keys)."""

MERGED_TWICE_BYTES = 1024**3
"""A table up to this size is sorted in the least memory, even if its runs have to be merged twice: they are still in
the server's page cache. A larger one gets what it takes to merge once, since its runs go to the disk and back."""

MERGE_TAPE_BYTES = 272 * 1024
"""What the server's merge takes for each run; more memory than it takes to merge all runs at once is of no use."""

WORKER_MB_MIN = 32
"""The server adds no worker to a build that has less than this for each."""

_SORTED = re.compile(r"\bUSING btree\b|\b(?:PRIMARY KEY|UNIQUE)\b")


def is_sorted(step: Statement) -> bool:
    """Whether a statement sorts a table's keys, so that the table's size says how much memory it needs."""
    return step.kind in {"INDEX", "CONSTRAINT"} and _SORTED.search(step.sql) is not None


def memory_mb(step: Statement, table_bytes: int, *, together: int, workers: int) -> int:
    """Return the maintenance_work_mem for a statement.

    Args:
        step: What is to be run.
        table_bytes: Of its table, without TOAST; looked at if it `is_sorted`.
        together: How many statements run at once.
        workers: How many workers of the server it may add.
    """
    most = min(ONE_MB_MAX, TOGETHER_MB_MAX // max(1, together))
    if not is_sorted(step):
        return most
    # keys in memory: up to twice those on disk
    one_merge_mb = math.isqrt(2 * table_bytes * MERGE_TAPE_BYTES) // 1024**2 if table_bytes > MERGED_TWICE_BYTES else 0
    return min(most, max(SORT_MB_MIN, one_merge_mb, WORKER_MB_MIN * (workers + 1) if workers else 0))


def workers_beside(jobs: int, lanes_left: int) -> int:
    """Return how many workers of the server a build may add: those jobs that have no lane of their own any more.

    The jobs are how many processes of the server an operator wants at work.
    """
    return max(0, jobs // lanes_left - 1)

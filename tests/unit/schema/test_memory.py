"""How much memory and how many workers a build gets."""

from __future__ import annotations

import pytest

from fixia_shardmig.schema.memory import memory_mb, workers_beside
from fixia_shardmig.schema.shard_schema import Statement

GB = 10**9
BTREE = ("INDEX", "CREATE INDEX i ON public.t USING btree (a);")
KEY = ("CONSTRAINT", "ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);")
GIN = ("INDEX", "CREATE INDEX i ON public.t USING gin (a);")
VALIDATE = ("VALIDATE", "ALTER TABLE public.t VALIDATE CONSTRAINT c;")


def of(what: tuple[str, str], table_bytes: int, *, together: int = 2, workers: int = 0) -> int:
    """Return the memory of a statement about a table of this size."""
    kind, text = what
    step = Statement(1, "indexes", 0, "", kind, None, None, "i", text)
    return memory_mb(step, table_bytes, together=together, workers=workers)


@pytest.mark.parametrize("what", [BTREE, KEY])
def test_a_sort_stays_in_the_caches_or_gets_what_it_takes_to_merge_once(what: tuple[str, str]) -> None:
    """More would make it slower; less would have the runs of a large table written and read twice."""
    assert [4, 4, 4, 71, 225, 512] == [of(what, size) for size in (0, GB // 10, GB, 10 * GB, 100 * GB, 1000 * GB)]


@pytest.mark.parametrize("what", [GIN, VALIDATE])
def test_what_is_not_sorted_gets_much(what: tuple[str, str]) -> None:
    """A hash table or a GIN index's pending entries are the better the more of them fit, whatever the table's size."""
    assert [512, 512, 256] == [of(what, GB, together=together) for together in (1, 2, 4)]


def test_a_build_with_workers_gets_memory_for_each() -> None:
    """The server starts none for a build that has less than 32 MB for each process."""
    assert [4, 64, 96] == [of(BTREE, 0, workers=workers) for workers in (0, 1, 2)]


def test_all_builds_of_a_stage_stay_within_a_gigabyte() -> None:
    """Sixty-four builds at once get 16 MB each, the largest tables too."""
    assert 16 == of(BTREE, 1000 * GB, together=64)


def test_only_jobs_without_a_lane_become_workers() -> None:
    """Four jobs: while four lanes are left each has a process; the last one alone has all four."""
    assert [0, 0, 0, 1, 3] == [workers_beside(4, left) for left in (9, 4, 3, 2, 1)]

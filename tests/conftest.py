"""Fixtures for every test: they live in tests/fixtures, one file a topic. And who runs which test when."""

from __future__ import annotations

import os

import pytest

pytest_plugins = (
    "tests.fixtures.fix_clusters",
    "tests.fixtures.fix_market",
    "tests.fixtures.fix_migrations",
    "tests.fixtures.fix_program",
    "tests.fixtures.fix_fleet",
    "tests.fixtures.fix_proxy",
    "tests.fixtures.fix_pgbouncer",
    "tests.fixtures.fix_places",  # after the one it stands on
    "tests.fixtures.fix_followers",  # after the two before it
    "tests.fixtures.fix_replication",
    "tests.fixtures.fix_split",
)

LONG = frozenset(
    f"test_{name}.py"
    for name in ("convergence", "demo", "full_disk", "histories", "kills", "outside_faults", "places", "torture")
)
"""Files whose tests take so long that the last of them would be waited for."""


def pytest_xdist_auto_num_workers() -> int:
    """Have one process more than cores for `-n auto`: half of a test's time it waits, for servers and for the clock."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the long tests out to the processes, first of all; the others keep their random order.

    With `--dist worksteal` each process begins with an equal part of the list, and takes of others' when it has done.
    """
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    long = [item for item in items if item.path.name in LONG]
    others = [item for item in items if item.path.name not in LONG]
    hands = [long[number::processes] for number in range(processes)]
    share = len(items) / processes
    dealt: list[pytest.Item] = []
    for number, hand in enumerate(hands):
        dealt += hand
        wanted = round(share * (number + 1)) - len(dealt)
        dealt += others[:wanted]
        del others[:wanted]
    items[:] = dealt + others

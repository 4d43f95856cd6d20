"""Hundreds of histories of a small migration end exact. `docs/explanation/model.md` says what is modelled.

`SHARDMIG_HISTORIES=20000` runs more of them, `SHARDMIG_HISTORY_SEED=7` others.
"""

from __future__ import annotations

import os

import pytest

from tests.model.machine import run_histories

PARTS = 4
"""Each with a seed of its own, so that several processes share the work."""

HISTORIES = int(os.environ.get("SHARDMIG_HISTORIES", "600"))
FIRST_SEED = int(os.environ.get("SHARDMIG_HISTORY_SEED", "0"))
SECONDS_A_HISTORY_MAX = 0.5


@pytest.mark.timeout(300 + HISTORIES / PARTS * SECONDS_A_HISTORY_MAX)
@pytest.mark.parametrize("part", range(PARTS))
def test_any_history_ends_exact(part: int) -> None:
    """Pitfalls 3, 6, 7, 37: whatever interleaves, no row is lost, doubled or misplaced, nor acknowledged too early."""
    run_histories(FIRST_SEED * PARTS + part, -(-HISTORIES // PARTS))

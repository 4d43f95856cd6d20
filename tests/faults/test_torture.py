"""A short run of what `make torture` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.demo.clusters import Cluster
from tests.faults import torture_cutover
from tests.faults.torture import Places, torture

KILLS = 20
KILLS_FROM_THE_CUTOVER = 6


@pytest.mark.timeout(600)
def test_twenty_kills_at_random_moments_lose_nothing_and_double_nothing(
    source_cluster: Cluster, target_cluster: Cluster, market_template: str, tmp_path: Path
) -> None:
    """Pitfalls 6, 7: drivers, workers and whole groups are killed; verify and the oracle find every row at home."""
    places = Places(source_cluster, target_cluster, market_template, anew=False)
    lines: list[str] = []
    assert KILLS <= torture(places, kills=KILLS, seed=1, directory=tmp_path, say=lines.append)
    assert lines


@pytest.mark.timeout(240)
def test_six_kills_at_random_moments_from_the_cutover_on_keep_every_promise(
    source_cluster: Cluster, target_cluster: Cluster, tmp_path: Path
) -> None:
    """Pitfalls 63, 64, 72: cut over, brought back, rolled back, finalized; what a customer was answered stands once."""
    clusters, lines = (source_cluster, target_cluster), list[str]()
    done = torture_cutover.torture(clusters, kills=KILLS_FROM_THE_CUTOVER, seed=1, directory=tmp_path, say=lines.append)
    assert (KILLS_FROM_THE_CUTOVER, True) == (done, bool(lines))

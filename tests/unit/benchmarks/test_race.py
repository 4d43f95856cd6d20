"""Rounds of several runs count as if they were one run's."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import Missing, Sample, Series
from benchmarks.pgcopydb import NoPeerError
from benchmarks.race import Contender, race


def test_rounds_of_earlier_runs_are_kept_and_count(tmp_path: Path) -> None:
    """A machine that is not ours for an hour gives it in pieces."""
    kept = tmp_path / "rounds.json"
    ours = Contender("ours", lambda number: Sample(10.0 + number, 1 << 20, {"data": 4.0}, 1 << 10))

    def absent(_: int) -> Sample:
        raise NoPeerError("not installed", hint="install it")

    race([ours, Contender("peer", absent)], 1, kept=kept)
    found, peer = race([ours, Contender("peer", absent)], 2, kept=kept)
    assert isinstance(found, Series)
    assert ([10.0, 10.0, 11.0], 1 << 10) == ([sample.seconds for sample in found.samples], found.worker_peak_bytes)
    assert isinstance(peer, Missing)

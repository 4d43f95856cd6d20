"""Ratios are of medians, in the direction that their heading says."""

from __future__ import annotations

import pytest

from benchmarks.figures import Sample, Series, part_medians, speed_ratio, thousands_per_s


def _series(*seconds: float) -> Series:
    return Series("somebody", tuple(Sample(value) for value in seconds))


def test_the_median_ignores_one_slow_round() -> None:
    """A round that something disturbed does not count."""
    assert 2.0 == _series(2.0, 90.0, 1.0).median_s


def test_the_median_of_two_rounds_lies_between_them() -> None:
    """An even number of rounds has a median too."""
    assert 1.5 == _series(1.0, 2.0).median_s


def test_who_needs_half_the_time_is_twice_as_fast() -> None:
    """Above 1 we are faster, below 1 slower."""
    assert 2.0 == speed_ratio(_series(5.0), _series(10.0))
    assert 0.5 == speed_ratio(_series(10.0), _series(5.0))


def test_a_speed_is_in_thousands_a_second() -> None:
    """600,000 changes in 20 seconds are 30 thousand a second."""
    assert 30.0 == thousands_per_s(600_000, 20.0)


def test_the_peak_is_the_largest_of_all_rounds() -> None:
    """A memory limit has to hold in the worst round."""
    assert 30 == Series("s", (Sample(1.0, 10), Sample(1.0, 30), Sample(1.0, 20))).peak_bytes


def test_memory_that_was_not_watched_is_not_zero() -> None:
    """A server's own workers are not measured, which is not the same as needing nothing."""
    assert _series(1.0, 2.0).peak_bytes is None


def test_a_part_becomes_a_series_of_its_own() -> None:
    """Table data alone is compared by its own seconds and medians, without the whole's memory."""
    whole = Series("whole", (Sample(9.0, 7, {"data": 2.0, "keys": 7.0}), Sample(8.0, 7, {"data": 4.0, "keys": 4.0})))
    assert Series("data alone", (Sample(2.0), Sample(4.0))) == whole.part("data", "data alone")
    assert {"data": 3.0, "keys": 5.5} == part_medians(whole)


def test_a_part_that_was_not_measured_is_an_error() -> None:
    """It never counts as no time."""
    with pytest.raises(KeyError):
        _series(1.0).part("data", "data alone")

"""A worker keeps to the pace that it is told, and gives a chunk back that would have to wait for long."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fixia_shardmig.copy.pacing import HELD_S_MAX, LOOK_EVERY_S, GivenBackError, Pacer
from fixia_shardmig.model.throttle import Pace, Verdict

TICK_S = 1e-6


@dataclass
class Time:
    """A clock that only sleeping moves, and what the journal says."""

    now_s: float = 0.0
    pace: Pace | None = None
    slept: list[float] = field(default_factory=list[float])

    def sleep(self, seconds: float) -> None:
        """Let time pass, by a tick at least, as a real clock does."""
        self.slept.append(seconds)
        self.now_s += max(seconds, TICK_S)

    def look(self) -> Pace | None:
        """Return the pace of now."""
        return self.pace

    def pacer(self) -> Pacer:
        """Return a pacer that lives in this time."""
        return Pacer(self.look, clock=lambda: self.now_s, sleep=self.sleep)


def test_without_a_word_nobody_waits() -> None:
    """A journal that was told no pace limits nothing."""
    time = Time()
    pacer = time.pacer()
    pacer.begin()
    assert not any(pacer.passed(10_000_000) for _ in range(100))
    assert [] == time.slept


def test_a_rate_is_kept_in_the_middle_of_a_chunk() -> None:
    """Ten blocks of 100 at 100 bytes a second take about ten seconds."""
    time = Time(pace=Pace(Verdict(kind="rate", rate_bytes_per_s=100)))
    pacer = time.pacer()
    pacer.begin()
    for _ in range(10):
        pacer.passed(100)
    assert time.now_s == pytest.approx(10.0, abs=0.5)
    assert max(time.slept) <= LOOK_EVERY_S


@pytest.mark.parametrize(("before", "after", "expected_s"), [(100, 1000, 5.5), (1000, 100, 5.5), (None, 100, 5.0)])
def test_another_rate_is_followed_in_the_middle_of_a_chunk(before: int | None, after: int, expected_s: float) -> None:
    """Five blocks of 100 at the one rate, five at the other: the pace is looked at again while the chunk goes on."""
    time = Time(pace=Pace(Verdict(rate_bytes_per_s=before)))
    pacer = time.pacer()
    pacer.begin()
    for block in range(10):
        if block == 5:
            time.pace = Pace(Verdict(rate_bytes_per_s=after))
            time.now_s += LOOK_EVERY_S
        pacer.passed(100)
    assert time.now_s == pytest.approx(expected_s, abs=2 * LOOK_EVERY_S + 0.25)


def test_a_chunk_that_is_held_for_long_is_given_back() -> None:
    """An operator who pauses for the night leaves no transaction open on a shard."""
    time = Time(pace=Pace(Verdict(held=True, kind="paused", reason="paused")))
    with pytest.raises(GivenBackError):
        time.pacer().begin()
    assert time.now_s == pytest.approx(HELD_S_MAX, abs=LOOK_EVERY_S)


def test_a_chunk_that_would_wait_when_the_run_ends_is_given_back_at_once() -> None:
    """Ctrl-C does not wait for a pause to end."""
    time = Time(pace=Pace(Verdict(held=True, kind="paused"), ending=True))
    with pytest.raises(GivenBackError):
        time.pacer().begin()
    assert [] == time.slept


def test_a_short_hold_is_waited_for() -> None:
    """The chunk goes on where it was as soon as it may."""
    time = Time(pace=Pace(Verdict(held=True, kind="load")))
    pacer = time.pacer()

    def calm_after(seconds: float) -> None:
        Time.sleep(time, seconds)
        if time.now_s >= 2.0:
            time.pace = Pace(Verdict())

    time.sleep = calm_after  # type: ignore[method-assign]
    pacer = time.pacer()
    pacer.begin()
    assert 2.0 <= time.now_s < 2.0 + 2 * LOOK_EVERY_S

"""What slows the work down is decided from what was seen; a signal that cannot be read holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.throttle import BURST_S, Bucket, Control, Limits, Signals, Unreadable, Verdict, decide

MIB = 1024 * 1024
FREE = Control()


def test_nothing_asked_for_is_nothing_slowed() -> None:
    """Without limits the work goes as it can."""
    assert decide(Signals(FREE), Limits()) == Verdict()


@pytest.mark.parametrize(
    ("signals", "kind", "said"),
    [
        (Signals(Control(paused=True)), "paused", "shardmig resume"),
        (Signals(Unreadable("gone")), "control", "cannot be read: gone"),
        (Signals(FREE, sessions=9, replica_lag_s=0.0), "load", "9 sessions"),
        (Signals(FREE, sessions=Unreadable("timeout"), replica_lag_s=0.0), "load", "cannot be read: timeout"),
        (Signals(FREE, sessions=8, replica_lag_s=2.5), "replica_lag", "2.5 s behind"),
        (Signals(FREE, sessions=8, replica_lag_s=Unreadable("hidden")), "replica_lag", "cannot be read: hidden"),
        (Signals(FREE, sessions=8), "replica_lag", "it was not looked at"),
        (Signals(FREE, replica_lag_s=0.0), "load", "it was not looked at"),
    ],
)
def test_what_is_over_its_limit_or_unknown_holds_the_work(signals: Signals, kind: str, said: str) -> None:
    """Pitfall 20's spirit: the source comes first, and not knowing is no leave to go on."""
    verdict = decide(signals, Limits(sessions_max=8, replica_lag_s_max=2.0))
    assert (True, kind) == (verdict.held, verdict.kind)
    assert said in verdict.reason


def test_a_limit_that_is_just_met_does_not_hold() -> None:
    """The limit itself is allowed."""
    verdict = decide(Signals(FREE, sessions=8, replica_lag_s=2.0), Limits(sessions_max=8, replica_lag_s_max=2.0))
    assert not verdict.held


@pytest.mark.parametrize(
    ("asked", "began_with", "expected"),
    [(None, 5 * MIB, 5 * MIB), (2 * MIB, 5 * MIB, 2 * MIB), (0, 5 * MIB, None), (9 * MIB, None, 9 * MIB)],
)
def test_an_operators_rate_goes_before_the_commands(asked: int | None, began_with: int | None, expected: int) -> None:
    """`throttle --rate` changes what `copy --rate` said, and 0 takes it away."""
    verdict = decide(Signals(Control(rate_bytes_per_s=asked)), Limits(rate_bytes_per_s=began_with))
    assert expected == verdict.rate_bytes_per_s
    assert verdict.kind == ("rate" if expected else "")


def test_a_rate_is_shared_by_the_workers_at_work() -> None:
    """Each of two workers may take half."""
    verdict = decide(Signals(FREE), Limits(rate_bytes_per_s=4 * MIB, jobs=2))
    assert verdict.block_rate == 2 * MIB


def test_fewer_jobs_are_said_to_be_a_slow_down() -> None:
    """And more than the command began with are not to be had."""
    fewer = decide(Signals(Control(jobs=1)), Limits(jobs=4))
    assert ("jobs", 1) == (fewer.kind, fewer.jobs)
    more = decide(Signals(Control(jobs=9)), Limits(jobs=4))
    assert ("", 4) == (more.kind, more.jobs)


@given(st.lists(st.integers(1, MIB), min_size=1, max_size=50), st.integers(1000, 10 * MIB))
def test_a_bucket_lets_no_more_through_than_its_rate(blocks: list[int], rate: int) -> None:
    """Whatever comes, in any time from the first block on: its rate, one burst, and the block that went into debt."""
    now = 0.0
    bucket = Bucket(now, rate)
    spent = 0
    for size in blocks:
        now += bucket.wait_s(now)
        assert spent <= rate * (now + BURST_S) + 1
        bucket.spend(now, size)
        spent += size


def test_a_new_rate_counts_from_now_on() -> None:
    """A debt made at the old rate is paid at the new one; without a rate there is none."""
    bucket = Bucket(0.0, 100.0)
    bucket.spend(0.0, 1000)
    assert bucket.wait_s(0.0) == pytest.approx(10.0)
    bucket.set_rate(5.0, 500.0)
    assert bucket.wait_s(5.0) == pytest.approx(1.0)
    bucket.set_rate(5.0, None)
    assert bucket.wait_s(5.0) == 0.0

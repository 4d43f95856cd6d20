"""The memory of homes, with a clock that only moves when told to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.lookup.homes import HomeCache


class Clock:
    """Seconds that pass by hand."""

    def __init__(self) -> None:
        """Begin at an odd moment."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the moment."""
        return self.now


def cache_of(clock: Clock, entries_max: int = 3) -> HomeCache:
    """Return a memory of three rows, ten seconds for a home and one for its absence."""
    return HomeCache(entries_max=entries_max, home_ttl_s=10.0, missing_ttl_s=1.0, clock=clock)


def home_in(cache: HomeCache, row: str) -> str | None:
    """Return the remembered home; a row that is not remembered fails."""
    known = cache.get(row)
    assert known is not None
    return known.home


def test_a_home_is_remembered_until_its_time_is_over() -> None:
    """At the very end it is not believed any more."""
    clock = Clock()
    cache = cache_of(clock)
    cache.put("row", "clients")
    clock.now += 9.9
    assert "clients" == home_in(cache, "row")
    clock.now += 0.1
    assert cache.get("row") is None


def test_an_absence_is_remembered_for_a_shorter_time() -> None:
    """Nowhere is an answer too, but not for long."""
    clock = Clock()
    cache = cache_of(clock)
    cache.put("row", None)
    assert home_in(cache, "row") is None
    clock.now += 1.0
    assert cache.get("row") is None


def test_the_least_recently_used_row_goes_first() -> None:
    """Reading counts as use."""
    cache = cache_of(Clock())
    for row in ("a", "b", "c"):
        cache.put(row, row)
    cache.get("a")
    cache.put("d", "d")
    assert [True, False, True, True] == [cache.get(row) is not None for row in ("a", "b", "c", "d")]


def test_a_forgotten_row_is_unknown() -> None:
    """Forgetting what is not known is nothing."""
    cache = cache_of(Clock())
    cache.put("row", "clients")
    cache.forget("row")
    cache.forget("other")
    assert cache.get("row") is None


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["clients", "shared", None])), max_size=60))
def test_what_is_remembered_is_the_last_word_and_never_more_than_allowed(told: list[tuple[int, str | None]]) -> None:
    """Whatever comes in whatever order: at most so many rows, each with what was said of it last."""
    cache = cache_of(Clock(), entries_max=5)
    for row, home in told:
        cache.put(row, home)
    known = {row: entry.home for row in range(21) if (entry := cache.get(row)) is not None}
    assert len(known) <= 5
    assert known.items() <= dict(told).items()

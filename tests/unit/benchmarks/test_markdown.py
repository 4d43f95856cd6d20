"""Figures become a page that people read and that a later run fills again."""

from __future__ import annotations

import pytest

from benchmarks import markdown
from benchmarks.figures import Comparison, Missing, Sample, Series
from fixia_shardmig.model.errors import RefusedError

OURS = Series("ours", (Sample(2.0, 3 * 1024 * 1024), Sample(4.0), Sample(3.0)))
PEER = Series("peer", (Sample(6.0), Sample(12.0), Sample(30.0)))


def test_a_comparison_shows_each_round_the_median_and_the_ratio() -> None:
    """Ours comes first and is 1; a peer that needs four times as long gives 4."""
    page = markdown.comparison(Comparison("Title", 6_000, "rows", OURS, (PEER,)))
    assert [
        "#### Title",
        "",
        "| what | seconds, each round | median | thousand rows/s | our speed against it | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
        "| **ours** | 2.00 · 4.00 · 3.00 | 3.00 | 2.0 | 1 | 3 MiB |",
        "| peer | 6.00 · 12.0 · 30.0 | 12.0 | 0.5 | 4.00 |  |",
    ] == page.splitlines()


def test_a_missing_peer_says_why_and_has_no_figures() -> None:
    """The table has a hole that can be seen."""
    page = markdown.comparison(Comparison("Title", 1, "rows", OURS, (Missing("peer", "not installed"),)))
    assert "| peer | not measured: not installed |  |  |  |  |" == page.splitlines()[-1]


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    """`a | b` is one cell."""
    assert "| psql \\| psql |" == markdown.table(("what",), [("psql | psql",)]).splitlines()[-1]


def test_parts_show_their_medians() -> None:
    """One row a part, in the order in which they happened."""
    series = Series(
        "s", (Sample(5.0, None, {"data": 1.0, "keys": 20.0}), Sample(5.0, None, {"data": 3.0, "keys": 10.0}))
    )
    assert ["| data | 1.00 · 3.00 | 2.00 |", "| keys | 20.0 · 10.0 | 15.0 |"] == (
        markdown.parts("Parts", series).splitlines()[-2:]
    )


def test_a_section_is_replaced_and_its_surroundings_stay() -> None:
    """A second run overwrites the first one's figures and nothing else."""
    page = f"before\n\n{markdown.empty_section('copy')}\n\nafter\n"
    once = markdown.placed(page, "copy", "old figures")
    twice = markdown.placed(once, "copy", "new figures\n")
    assert "old figures" in once
    assert once.replace("old figures", "new figures") == twice
    assert (twice.startswith("before\n"), twice.endswith("after\n")) == (True, True)


@pytest.mark.parametrize("page", ["", "<!-- measured copy: begin -->", "<!-- measured copy: end -->"])
def test_a_page_without_the_section_is_refused(page: str) -> None:
    """An hour's figures are not dropped silently: the page is looked at before the run."""
    with pytest.raises(RefusedError, match="no section copy"):
        markdown.placed(page, "copy", "figures")


def test_the_memory_of_a_worker_stands_beside_that_of_all() -> None:
    """The bound is a worker's, however many of them there are."""
    alone = Series("ours", (Sample(1.0, 300 << 20, {}, 40 << 20), Sample(1.0, 200 << 20, {}, 50 << 20)))
    text = markdown.comparison(Comparison("Copy", 1000, "rows", alone, ()))
    assert "| 300 MiB; a worker 50 MiB |" in text

"""Writes figures as Markdown, and sets a section into a page between its two markers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.figures import Comparison, Missing, Series, part_medians, speed_ratio, thousands_per_s
from fixia_shardmig.model.errors import RefusedError

MEBIBYTE = 1024 * 1024


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def comparison(compared: Comparison) -> str:
    """Return a comparison as a headed table: ours first, then the others, then who could not take part."""
    head = (
        "what",
        "seconds, each round",
        "median",
        f"thousand {compared.unit}/s",
        "our speed against it",
        "peak memory",
    )
    rows = [_row(compared, compared.ours)]
    for other in compared.others:
        match other:
            case Series():
                rows.append(_row(compared, other))
            case Missing():
                rows.append((other.name, f"not measured: {other.reason}", "", "", "", ""))
    return f"#### {compared.title}\n\n{table(head, rows)}"


def _row(compared: Comparison, series: Series) -> tuple[str, ...]:
    is_ours = series is compared.ours
    peak = series.peak_bytes
    return (
        f"**{series.name}**" if is_ours else series.name,
        " · ".join(seconds(sample.seconds) for sample in series.samples),
        seconds(series.median_s),
        f"{thousands_per_s(compared.amount, series.median_s):,.1f}",
        "1" if is_ours else f"{speed_ratio(compared.ours, series):.2f}",
        "" if peak is None else _memory(peak, series.worker_peak_bytes),
    )


def _memory(peak: int, worker_peak: int | None) -> str:
    """Return the memory of all processes, and the largest of a worker."""
    of_worker = "" if worker_peak is None else f"; a worker {worker_peak / MEBIBYTE:,.0f} MiB"
    return f"{peak / MEBIBYTE:,.0f} MiB{of_worker}"


def parts(title: str, series: Series) -> str:
    """Return the parts of a series as a headed table of each round's seconds and their median."""
    rows = [
        (part, " · ".join(seconds(sample.parts[part]) for sample in series.samples), seconds(middle))
        for part, middle in part_medians(series).items()
    ]
    return f"#### {title}\n\n{table(('part', 'seconds, each round', 'median'), rows)}"


def facts(pairs: Mapping[str, str]) -> str:
    """Return facts about a run as a table of two columns."""
    return table(("", ""), pairs.items())


def seconds(value: float) -> str:
    """Return seconds with as many digits as mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"  # noqa: PLR2004  three digits


def placed(page: str, name: str, section: str) -> str:
    """Return a page with its section of a name replaced.

    Raises:
        RefusedError: The page has no such section.
    """
    begin, end = markers(name)
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise RefusedError(
            f"the page has no section {name}", hint=f"put these two lines where it belongs: {begin} and {end}"
        )
    return f"{before}{begin}\n\n{section.strip()}\n\n{end}{after}"


def markers(name: str) -> tuple[str, str]:
    """Return the two lines between which a section stands."""
    return f"<!-- measured {name}: begin -->", f"<!-- measured {name}: end -->"


def empty_section(name: str) -> str:
    """Return a headed section with nothing between its markers."""
    begin, end = markers(name)
    return f"### {name}\n\n{begin}\n\n{end}"

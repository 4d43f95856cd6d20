"""What is wrong in a mapping file, each mistake with its place. Nothing stops at the first one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fixia_shardmig.model.errors import MappingError

Way = tuple[str | int, ...]
"""The keys and list positions that lead to a place in the file: `("tables", "users", "split_by")`."""

NAMES_SHOWN_MAX = 8
"""More names than this are no help to somebody who mistyped one."""

LIKENESS_SPAN = 0.1
"""Names this much less like the mistyped one than the nearest are no better guess."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and a column, both counted from 1 as editors do."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake: where it stands, what is wrong, and what to write instead."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Return one line that editors and compilers' users know how to follow."""
        text = f"{self.file}:{self.line}:{self.column}: {self.message}"
        return f"{text}; hint: {self.hint}" if self.hint else text


class MappingProblems(MappingError):  # noqa: N818  it holds several, and each is a Problem
    """Every mistake that was found in one mapping file, in the file's order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort the mistakes by place and drop repeats."""
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Report:
    """Collects mistakes while a file is read or checked.

    Attributes:
        keys: Where each key stands.
        values: Where each value begins; the empty way is the document.
    """

    file: str
    keys: Mapping[Way, Place]
    values: Mapping[Way, Place]
    problems: list[Problem] = field(default_factory=list)

    def at_key(self, way: Way, message: str, *, hint: str = "") -> None:
        """Note a mistake at a key."""
        self._note(_nearest(self.keys, way) or _nearest(self.values, way), message, hint)

    def at_value(self, way: Way, message: str, *, hint: str = "") -> None:
        """Note a mistake at a value."""
        self._note(_nearest(self.values, way), message, hint)

    def raise_if_any(self) -> None:
        """Raise MappingProblems when something was noted."""
        if self.problems:
            raise MappingProblems(self.problems)

    def _note(self, place: Place | None, message: str, hint: str) -> None:
        where = place or Place(1, 1)
        self.problems.append(Problem(self.file, where.line, where.column, message, hint))


def _nearest(places: Mapping[Way, Place], way: Way) -> Place | None:
    """Return the place of a way, or of the closest thing around it."""
    return next((places[way[:length]] for length in range(len(way), -1, -1) if way[:length] in places), None)


def closest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known names nearest to a mistyped one, or with all of them when they are few."""
    names = sorted(set(known))
    by_folded = {known_name.casefold(): known_name for known_name in names}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3)
    if near:
        best = _likeness(name, near[0])
        alike = [by_folded[hit] for hit in near if _likeness(name, hit) > best - LIKENESS_SPAN]
        return f"did you mean {' or '.join(alike)}?"
    if 0 < len(names) <= NAMES_SHOWN_MAX:
        return f"known here: {', '.join(names)}"
    return ""


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio()

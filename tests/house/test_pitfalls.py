"""Each way in which such migrations go wrong that we answer for has a test that names its number."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.house.project import python_files, text

ANSWERED = (
    *(*range(1, 14), 15, 18, 19, *range(21, 29), *range(30, 34), *range(37, 45)),
    *range(47, 74),
)
NUMBERS = re.compile(r"[Pp]itfalls? ([\d, and-]+)")


@cache
def _named() -> set[int]:
    """Return the numbers that docstrings of tests name."""
    found: set[int] = set()
    for path in python_files("tests"):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for listed in NUMBERS.findall(ast.get_docstring(node) or ""):
                    found.update(int(number) for number in re.findall(r"\d+", listed))
    return found


@pytest.mark.parametrize("number", ANSWERED)
def test_a_pitfall_has_a_test(number: int) -> None:
    """The number stands in a test's docstring."""
    assert number in _named()

"""Nothing grows past what one reading can hold."""

from __future__ import annotations

from tests.house.project import functions, python_files, text

FUNCTION_LINES_MAX = 60
"""Most are under 25; past this a function does two things and wants to be two."""

FILE_LINES_MAX = 600
"""A room is split into files by noun long before this."""

HELD = ("fixia_shardmig", "tests", "docs", "benchmarks")


def test_no_function_is_longer_than_the_limit() -> None:
    """Every function and method, its docstring counted, fits the limit."""
    too_long = [
        f"{path}:{function.lineno} {function.name} has {lines} lines, the limit is {FUNCTION_LINES_MAX}"
        for path in python_files(*HELD)
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert [] == too_long


def test_no_file_is_longer_than_the_limit() -> None:
    """Every Python file fits the limit."""
    too_long = [
        f"{path} has {lines} lines, the limit is {FILE_LINES_MAX}"
        for path in python_files(*HELD)
        if (lines := len(text(path).splitlines())) > FILE_LINES_MAX
    ]
    assert [] == too_long

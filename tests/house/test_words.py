"""One word for one thing: the glossary's (docs/glossary.md), in docs, docstrings, comments and names.

Only words that are nearly always the wrong one stand here. `lock`, `instance`, `dump` or `sync` also have a right use
(LOCK TABLE, an instance of a class, pg_dump, fsync), so they are left to the reader.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.project import PACKAGE, files, python_files, text, tree

SAY = {
    r"\b(?:shard|owner|data|source|target) nodes?\b": "shard",
    r"\b(?:shard|target) instances?\b": "shard",
    r"\b(?:tenant|distribution|sharding) keys?\b": "shard key",
    r"\bowner shards?\b": "home shard",
    r"\b(?:global|broadcast) tables?\b": "reference table",
    r"\bmanifests?\b": "mapping",
    r"\b(?:mapping|migration|shardmig) config(?:uration)?s?\b": "mapping",
    r"\b(?:src|dst|dest)\b": "source, target",
    r"\b(?:wal|stream|replication) offsets?\b": "LSN",
    r"\bstate files?\b": "checkpoint, journal",
    r"\bcdc\b|\bchange data capture\b": "tail",
    r"\b(?:syncing|synced|in sync|out of sync)\b": "catch-up, caught up",
    r"\b(?:data|row) (?:mismatch(?:es)?|drift)\b": "difference",
    r"\b(?:write freeze|freez(?:e|es|ing) (?:the )?(?:writes|writers|source))\b": "fence",
    r"\bflush(?:es|ing)? the (?:stream|tail|backlog)\b": "drain",
    r"\b(?:flip|swap)(?:s|ped|ping)? the (?:writers?|traffic|aliases|databases)\b": "switch",
    r"\bfail-?backs?\b": "rollback",
}
"""A pattern (case is ignored) and the word to say instead."""

SAY_IN_NAMES = {
    r"(?:^|_)(?:src|dst|dest)(?:_|$)": "source, target",
    r"^lag$|_lag$": "lag_bytes, lag_s",
    r"^offset$|_offset$": "lsn, or position where it is not the WAL's",
}
"""The same for the names that Python code gives to variables, parameters, attributes and functions."""

WHERE_THE_WRONG_WORDS_STAND = {Path("docs/glossary.md"), Path("tests/house/test_words.py")}


def _prose(path: Path) -> str:
    """Return the docstrings and comments of a Python file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree(path)) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(text(path)).readline)
    return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def _read() -> Iterator[tuple[Path, str]]:
    """Yield what people read: pages, and the docstrings and comments of the package and its tests."""
    for path in files():
        if path not in WHERE_THE_WRONG_WORDS_STAND and path.suffix in {".md", ".yaml", ".yml"}:
            yield path, text(path)
    for path in python_files(PACKAGE, "tests", "docs"):
        if path not in WHERE_THE_WRONG_WORDS_STAND:
            yield path, _prose(path)


def _names(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name.lower()
            case _:
                pass


@pytest.mark.parametrize(("pattern", "word"), SAY.items())
def test_prose_uses_the_words_of_the_glossary(pattern: str, word: str) -> None:
    """No page, docstring or comment has another word for a thing that the glossary names."""
    wrong = [
        f'{path}: "{match.group()}": say {word}'
        for path, read in _read()
        for match in re.finditer(pattern, " ".join(read.split()), re.IGNORECASE)
    ]
    assert [] == wrong


@pytest.mark.parametrize(("pattern", "word"), SAY_IN_NAMES.items())
def test_names_use_the_words_of_the_glossary(pattern: str, word: str) -> None:
    """No name in the package has another word for a thing that the glossary names."""
    wrong = [
        f"{path}:{line} {name}: say {word}"
        for path in python_files(PACKAGE)
        for line, name in _names(path)
        if re.search(pattern, name)
    ]
    assert [] == wrong


@pytest.mark.parametrize(
    ("sentence", "pattern"),
    [
        ("it reads the src database", r"\b(?:src|dst|dest)\b"),
        ("a Broadcast table", r"\b(?:global|broadcast) tables?\b"),
        ("the shards are in sync", r"\b(?:syncing|synced|in sync|out of sync)\b"),
    ],
)
def test_a_wrong_word_is_found(sentence: str, pattern: str) -> None:
    """The patterns match what they are there for."""
    assert pattern in SAY
    assert re.search(pattern, sentence, re.IGNORECASE)

"""Markdown by plain composition: tables, blocks of code, and names from servers that must not break them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict

SHOWN_IN_PSQL = ("host", "hostaddr", "port", "user", "dbname", "sslmode")
"""What of a URL may stand on the page; psql asks for a password, or takes it from ~/.pgpass."""


def cell(text: object) -> str:
    """Return text that stays in one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a table's lines, and an empty one behind it; nothing without rows."""
    body = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body, ""] if body else []


def code(language: str, text: str) -> list[str]:
    """Return a block of code, and an empty line behind it."""
    return [f"```{language}", *text.rstrip("\n").splitlines(), "```", ""]


def psql(url: str, database: str = "") -> str:
    """Return the command that opens a URL's database, or another one there, without its password."""
    return f"psql {coordinates(url, database)}"


def coordinates(url: str, database: str = "") -> str:
    """Return a connection string as a word of a shell's command line, without a secret."""
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.ProgrammingError:
        return "URL"
    if "@" in parts.get("host", "")[1:]:  # a piece of a password that libpq takes for the host
        return "URL"
    parts |= {"dbname": database} if database else {}
    shown = [f"{name}={_value(parts[name])}" for name in SHOWN_IN_PSQL if name in parts]
    return shlex.quote(" ".join(shown))


def _value(text: str) -> str:
    plain = text and not any(sign in text for sign in " '\\")
    return text if plain else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

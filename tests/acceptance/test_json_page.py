"""docs/reference/json.md has every field that a command prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.fixtures.fix_program import Shop
from tests.house.project import ROOT

HEAD = {"schema_version", "migration", "status", "next_steps"}
ROW = re.compile(r"^\| (?P<commands>`[a-z-]+.*?|any that failed) \| (?P<fields>.*) \|$", re.MULTILINE)


def _named(command: str) -> set[str]:
    """Return the words of a command's row."""
    _, _, table = (ROOT / "docs/reference/json.md").read_text("utf-8").partition("| command | fields |")
    rows = [match for match in ROW.finditer(table) if command in match["commands"].replace("`", "").split(", ")]
    assert 1 == len(rows), command
    return set(re.findall(r"\w+", rows[0]["fields"]))


def _fields(result: dict[str, Any]) -> Iterator[str]:
    """Yield the names of a result's fields, and those of the objects in its lists."""
    for name, value in result.items():
        yield name
        if isinstance(value, list):
            yield from (field for entry in value if isinstance(entry, dict) for field in entry)


def _check(command: str, result: dict[str, Any]) -> None:
    assert [] == sorted(set(_fields(result)) - HEAD - _named(command)), command


def test_the_page_has_every_field(shop: Shop) -> None:
    """A whole migration, with a row that differs, an error and a switch."""
    _check("any that failed", shop.json("tail", code=4))
    _check("init", shop.json("init", "--from-url", "SOURCE_URL"))
    for command in ("plan", "schema apply", "schema diff", "copy --resume", "tail --until caught-up"):
        found = shop.json(*command.split(), code=3 if command == "schema diff" else 0)
        _check(command.partition(" --")[0], found)
    shop.sql("pros", "update users set name = 'x' where id = 2")
    _check("verify", shop.json("verify", code=3))
    shop.sql("pros", "update users set name = 'user 2' where id = 2")
    shop.json("verify", code=0)
    for command in ("status", "events", "runbook", "lookup users 2", "--yes cutover"):
        _check(command.removeprefix("--yes ").partition(" ")[0], shop.json(*command.split()))

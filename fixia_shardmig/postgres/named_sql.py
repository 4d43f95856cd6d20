"""Reads a room's static SQL: a `.sql` file beside its user, in blocks that each begin with `-- name: …`."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import LiteralString, cast


@cache
def named_sql(package: str, file: str, name: str) -> LiteralString:
    """Return one block of a package's file, as written there.

    Raises:
        KeyError: No block has that name.
    """
    text = resources.files(package).joinpath(file).read_text("utf-8")
    blocks = (block.partition("\n") for block in text.split("-- name: ")[1:])
    return cast("LiteralString", {title.strip(): body for title, _, body in blocks}[name])

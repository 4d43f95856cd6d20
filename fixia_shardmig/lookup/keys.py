"""Primary keys as applications have them, made into texts that every key's type of PostgreSQL reads.

One text form a key means one cache entry for `42` and `"42"`. Refuses what no key can be: NULL and unprintable texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName

KeyTexts = tuple[str, ...]
"""A key's parts in the order of the primary key's columns."""


def key_texts(key: object) -> KeyTexts:
    """Return a scalar key, or a tuple's parts, as texts; raises MappingError for what can be no key."""
    parts = key if isinstance(key, tuple) else (key,)
    if not parts:
        raise MappingError("an empty key", hint="give a value for each column of the primary key")
    return tuple(_text(part) for part in parts)


def check_parts(table: TableName, key_columns: Sequence[str], key: KeyTexts) -> None:
    """Raise MappingError where a table has no primary key, or one with another number of columns."""
    if not key_columns:
        raise MappingError(f"{table} has no primary key", hint="find its rows by a query of your own")
    if len(key) != len(key_columns):
        raise MappingError(
            f"{shown(key)} is no key of {table}: it has {len(key)} of {len(key_columns)} parts",
            hint=f"give {', '.join(key_columns)}, in this order",
        )


def shown(key: KeyTexts) -> str:
    """Return a key as messages show it."""
    return ", ".join(key)


def _text(value: object) -> str:
    match value:
        case None:
            raise MappingError("a key's part is NULL", hint="a primary key has a value in each of its columns")
        case Enum():
            return _text(value.value)
        case bool():
            return "true" if value else "false"
        case bytes() | bytearray() | memoryview():
            return f"\\x{value.hex()}"
        case _:
            return _readable(str(value))


def _readable(text: str) -> str:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise MappingError(
            f"the key {text!a} is no text of PostgreSQL", hint="give it in UTF-8, without NUL characters"
        )
    return text

"""Exact identifiers of tables. Case is kept and nothing is folded: `User` is not `user`."""

from __future__ import annotations

from typing import NamedTuple

from fixia_shardmig.model.errors import MappingError

DEFAULT_SCHEMA = "public"


class TableName(NamedTuple):
    """A schema-qualified table. Its text leaves `public.` out and quotes a part that holds a dot or a quote.

    A tuple, since the tail looks it up in a dictionary several times for every row.
    """

    schema: str
    name: str

    def __str__(self) -> str:
        """Return the name as a mapping file writes it."""
        if self.schema == DEFAULT_SCHEMA:
            return _shown(self.name)
        return f"{_shown(self.schema)}.{_shown(self.name)}"

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read `name`, `schema.name` or quoted parts (`"with.dot"`); raises MappingError on anything else."""
        parts = _split(text)
        match parts:
            case [name]:
                return cls(DEFAULT_SCHEMA, name)
            case [schema, name]:
                return cls(schema, name)
            case _:
                raise MappingError(
                    f"{text!r} is not a table name",
                    hint='write table, schema.table, or quote a part that holds a dot: sales."with.dot"',
                )


def _shown(part: str) -> str:
    if "." in part or '"' in part:
        return '"' + part.replace('"', '""') + '"'
    return part


def _split(text: str) -> list[str]:
    """Split at dots outside double quotes; an empty list where a part is empty or a quote stays open."""
    parts: list[str] = []
    current: list[str] = []
    quoted = False
    position = 0
    while position < len(text):
        char = text[position]
        if quoted and char == '"' and text[position + 1 : position + 2] == '"':
            current.append('"')
            position += 1
        elif char == '"':
            quoted = not quoted
        elif char == "." and not quoted:
            parts.append("".join(current))
            current = []
        else:
            current.append(char)
        position += 1
    parts.append("".join(current))
    return [] if quoted or not all(parts) else parts

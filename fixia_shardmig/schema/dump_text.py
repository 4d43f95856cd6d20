"""Takes pg_dump's verbose plain text apart into its entries: what each one is, its OIDs and its SQL.

Quotes are followed, so that a comment or a function body which looks like a heading is not taken for one.
Refuses a text without a single entry, which is not a dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fixia_shardmig.model.errors import ShardmigError

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*)
  | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<literal>'(?:[^']|'')*')
  | (?P<identifier>"(?:[^"]|"")*")
  | (?P<dollar>(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
  | (?P<end>;)
  | (?P<backslash>^\\(?:un)?restrict[^\n]*)
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"-- TOC entry (\d+) \(class (\d+) OID (\d+)\)")
_DEPENDENCIES = re.compile(r"-- Dependencies:((?: \d+)+)")
_NAME = re.compile(r"-- (?:Data for )?Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: (.*)")

_NAMED = r'(?:"(?:[^"]|"")*"|\w+)'
_INHERITED_NOT_NULL = re.compile(
    rf"^    (?:CONSTRAINT {_NAMED} )?NOT NULL (?P<column>{_NAMED})(?: NO INHERIT)?,?\n", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a dump.

    Attributes:
        number: pg_dump's own number of it, which `depends_on` of comments and grants point to.
        class_oid: The catalog the object is in (1259 is pg_class), 0 for entries that are no object.
        kind: `TABLE`, `FK CONSTRAINT`, `INDEX ATTACH`, …
        sql: Its statements, without comments.
    """

    number: int
    class_oid: int
    oid: int
    depends_on: tuple[int, ...]
    name: str
    kind: str
    schema: str
    sql: str


def parse(text: str) -> tuple[Entry, ...]:
    """Return the entries of a dump in its order."""
    comments = [match for match in _TOKEN.finditer(text) if match.lastgroup in {"comment", "backslash"}]
    starts = [n for n, match in enumerate(comments) if _HEADING.fullmatch(match.group())]
    if not starts:
        raise ShardmigError("pg_dump's output has no entries", hint="is its version between 15 and 18?")
    bounds = zip(starts, [*starts[1:], len(comments)], strict=True)
    return tuple(_entry(text, comments[first:last], _end(text, comments, last)) for first, last in bounds)


def _end(text: str, comments: list[re.Match[str]], following: int) -> int:
    return comments[following].start() if following < len(comments) else len(text)


def _entry(text: str, comments: list[re.Match[str]], end: int) -> Entry:
    """Read one entry: its heading's lines are comments, and what stands between and after comments is SQL."""
    heading = _HEADING.fullmatch(comments[0].group())
    name = next((m for c in comments[1:3] if (m := _NAME.fullmatch(c.group()))), None)
    depends_on = next((m for c in comments[1:2] if (m := _DEPENDENCIES.fullmatch(c.group()))), None)
    if heading is None or name is None:
        raise ShardmigError(f"pg_dump's heading {comments[0].group()!r} cannot be read")
    ends = [*(c.start() for c in comments[1:]), end]
    pieces = [text[comment.end() : stop] for comment, stop in zip(comments, ends, strict=True)]
    return Entry(
        number=int(heading.group(1)),
        class_oid=int(heading.group(2)),
        oid=int(heading.group(3)),
        depends_on=tuple(int(n) for n in depends_on.group(1).split()) if depends_on else (),
        name=name.group(1),
        kind=name.group(2),
        schema=name.group(3),
        sql="".join(pieces).strip(),
    )


def split_statements(text: str) -> Iterator[str]:
    """Yield the statements of an entry. Not for SQL function bodies (BEGIN ATOMIC), whose inside has semicolons."""
    start = 0
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "end":
            yield text[start : match.end()].strip()
            start = match.end()


def for_older_server(create_table: str, quoted_table: str) -> str:
    """Return a CREATE TABLE of 18's pg_dump as older servers take it: NOT NULL of inherited columns in statements.

    Such a line stands among the columns, which it is none of: `    NOT NULL id`.
    """
    columns = [match["column"] for match in _INHERITED_NOT_NULL.finditer(create_table)]
    if not columns:
        return create_table
    shorter = _INHERITED_NOT_NULL.sub("", create_table).replace(",\n)\n", "\n)\n", 1)
    alter = [f"ALTER TABLE ONLY {quoted_table} ALTER COLUMN {column} SET NOT NULL;" for column in columns]
    return "\n".join([shorter, *alter])

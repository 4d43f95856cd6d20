"""The form of a mapping file: which keys there are and what each may hold; `load` and `check` judge the meaning.

The same models give the JSON Schema that editors complete and underline with.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from fixia_shardmig.mapping.problems import Way

NAME_PATTERN = r"^[a-z0-9_]{1,40}$"

Url = Annotated[str, Field(description="A PostgreSQL URL; ${NAME}, ${NAME:-default} and file:/path are filled in.")]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A block of keys; unknown ones are mistakes, and nothing is converted silently."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class Source(Section):
    """The one database of today."""

    url: Url = Field(repr=False)
    replicas: list[Url] = Field(default_factory=list, repr=False, description="Read-only copies, for lookup.")


class Shard(Section):
    """One database of tomorrow."""

    url: Url = Field(repr=False)
    replicas: list[Url] = Field(default_factory=list, repr=False, description="Read-only copies, for lookup.")
    journal: bool = Field(default=False, description="Whether this shard keeps the journal; exactly one does.")


class PgBouncerSection(Section):
    """A pooler that cutover pauses and re-points."""

    admin_url: str = Field(repr=False, description="URL of the admin console; empty means there is no pooler.")
    databases_file: str = Field(default="", description="The one %include file that shardmig owns.")
    aliases: dict[str, Text] = Field(default_factory=dict, description="Shard -> name of its database in PgBouncer.")


def _poolers_form(value: Any) -> str:  # noqa: ANN401  whatever stands in the file
    return "<several>" if isinstance(value, list) else "<one>"


Poolers = Annotated[
    Annotated[PgBouncerSection, Tag("<one>")] | Annotated[list[PgBouncerSection], Tag("<several>")],
    Discriminator(_poolers_form),
]


class Hooks(Section):
    """Commands for whoever has no PgBouncer file to write."""

    on_switch: list[Text] = Field(
        default_factory=list,
        description="Run at a cutover and a rollback, with SHARDMIG_EPOCH, SHARDMIG_DIRECTION, SHARDMIG_MIGRATION.",
    )


class Cache(Section):
    """The lookup cache."""

    url: str = Field(default="", repr=False, description="A Redis URL; empty means a cache inside the process only.")
    ttl: dict[str, Annotated[int, Field(gt=0)]] = Field(
        default_factory=dict, description="Table -> seconds that a row may stay when nothing invalidates it earlier."
    )


class SplitByColumnForm(Section):
    """`split_by: {column, references, value}`: the kind stands in a column of a small reference table."""

    column: Text
    references: Text = Field(description="A table whose rule is reference: true.")
    to: Text | None = Field(default=None, description="The column pointed to; known from the foreign key if declared.")
    value: Text = Field(description="The column of that table that holds the kind.")


class SplitBySqlForm(Section):
    """`split_by: {sql}`: an immutable expression over the row's own columns."""

    sql: Text


class FollowForm(Section):
    """One reference that decides a row's home, written out."""

    columns: list[Text] = Field(min_length=1)
    references: Text | None = Field(default=None, description="The table pointed to; known from the foreign key.")
    to: list[Text] | None = Field(default=None, min_length=1, description="Its columns; known from the foreign key.")


def _split_form(value: Any) -> str:  # noqa: ANN401  whatever stands in the file
    if isinstance(value, dict):
        return "<sql>" if "sql" in value else "<reference>"
    return "<column>"


def _follow_form(value: Any) -> str:  # noqa: ANN401  whatever stands in the file
    return "<written out>" if isinstance(value, dict) else "<column>"


def _follows_form(value: Any) -> str:  # noqa: ANN401  whatever stands in the file
    return "<alternatives>" if isinstance(value, list) else _follow_form(value)


SplitBy = Annotated[
    Annotated[Text, Tag("<column>")]
    | Annotated[SplitByColumnForm, Tag("<reference>")]
    | Annotated[SplitBySqlForm, Tag("<sql>")],
    Discriminator(_split_form),
]
FollowOne = Annotated[
    Annotated[Text, Tag("<column>")] | Annotated[FollowForm, Tag("<written out>")], Discriminator(_follow_form)
]
FollowsAny = Annotated[
    Annotated[Text, Tag("<column>")]
    | Annotated[FollowForm, Tag("<written out>")]
    | Annotated[list[FollowOne], Field(min_length=1), Tag("<alternatives>")],
    Discriminator(_follows_form),
]

RULE_KEYS = ("split_by", "follows", "shard", "reference", "skip")
"""Exactly one of these makes a table's rule."""


class TableRule(Section):
    """Where the rows of one table live."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [key]} for key in RULE_KEYS]}
    )

    split_by: SplitBy | None = Field(default=None, description="The row's own value has a home in homes.")
    homes: dict[str, Text] | None = Field(default=None, description="Value -> shard.")
    follows: FollowsAny | None = Field(default=None, description="The row lives where the row it references lives.")
    otherwise: Text | None = Field(default=None, description="Shard of the rows whose home cannot be decided.")
    shard: Text | None = Field(default=None, description="The whole table lives on this shard.")
    reference: bool | None = Field(default=None, description="true: the whole table lives on every shard.")
    skip: str | None = Field(default=None, description="The table is not moved, for this reason.")


class Document(Section):
    """A whole mapping file."""

    version: Literal[1]
    name: Name = Field(description="Slot, publication and journal are named after it.")
    source: Source
    shards: dict[Name, Shard] = Field(min_length=1)
    pgbouncer: Poolers | None = Field(default=None, description="One pooler, or a list of them.")
    hooks: Hooks | None = None
    cache: Cache | None = None
    tables: dict[Text, TableRule] = Field(description="Table -> rule; `public.` may be left out.")


_SECTIONS: tuple[tuple[Way, type[Section]], ...] = (
    ((), Document),
    (("source",), Source),
    (("shards", "*"), Shard),
    (("pgbouncer",), PgBouncerSection),
    (("pgbouncer", "*"), PgBouncerSection),
    (("hooks",), Hooks),
    (("cache",), Cache),
    (("tables", "*"), TableRule),
    (("tables", "*", "follows"), FollowForm),
    (("tables", "*", "follows", "*"), FollowForm),
)


def keys_at(way: Way, siblings: frozenset[str]) -> tuple[str, ...]:
    """Return the keys that a block may have, for "did you mean"; the forms of split_by differ by their siblings."""
    if len(way) == 3 and way[2] == "split_by":  # noqa: PLR2004  ("tables", TABLE, "split_by")
        return tuple((SplitBySqlForm if "sql" in siblings else SplitByColumnForm).model_fields)
    for pattern, section in _SECTIONS:
        if len(pattern) == len(way) and all(p in ("*", w) for p, w in zip(pattern, way, strict=True)):
            return tuple(section.model_fields)
    return ()

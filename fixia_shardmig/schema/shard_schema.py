"""The DDL of one shard as data: statements in stages, what happened to each foreign key, what does not move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.references import ForeignKeyFate

STAGES = ("pre_data", "primary_keys", "indexes", "constraints", "foreign_keys", "finish", "after_switch")
"""The order in which a shard is built. `pre_data` comes before the copy and has no key and no index; `after_switch`
turns on what would fire while changes are applied: triggers that are ENABLE ALWAYS or REPLICA on the source."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One step of a stage; its SQL may be several statements that belong together.

    Attributes:
        ordinal: Its place among all statements of the shard.
        rank: Statements of one rank may run at the same time; a rank begins when the one before it has ended.
        lane: Statements of one lane and rank run one after another: their locks would meet.
        kind: pg_dump's word (`INDEX`, `FK CONSTRAINT`), or ours (`VALIDATE`, `OWNER`, `TRIGGER STATE`, `REFRESH`).
        table: The table or view it is about; None for schemas, types, functions.
        root: The table a mapping would name: the partitioned root of `table`, else `table` itself.
        optional: Whether the shard is right without it, so that its failure is noted and not an error: a grant
            to a role that does not exist there, a function that uses an extension which is not installed.
    """

    ordinal: int
    stage: str
    rank: int
    lane: str
    kind: str
    table: TableName | None
    root: TableName | None
    name: str
    sql: str
    optional: bool = False

    def __str__(self) -> str:
        """Return how messages call it: `INDEX users_email_key on users`."""
        at = f" on {self.table}" if self.table and self.name != self.table.name else ""
        return f"{self.kind} {self.name}{at}"


@dataclass(frozen=True, slots=True)
class NotMoved:
    """Something of the source that this shard does not get, and why."""

    kind: str
    name: str
    reason: str


class Definition(NamedTuple):
    """What one object is, as text that another database's can be compared with."""

    kind: str
    schema: str
    relation: str
    name: str
    definition: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return what names the object."""
        return (self.kind, self.schema, self.relation, self.name)


@dataclass(frozen=True, slots=True)
class ShardSchema:
    """All that a shard needs of the source's DDL, so that later stages need no source.

    Attributes:
        foreign_keys: One fate for each foreign key of the tables on this shard; `kept` speaks of this shard.
        definitions: What the shard should look like in the end, for `diff`.
        source_major: The version whose spelling the definitions have.
    """

    shard: str
    source_major: int
    statements: tuple[Statement, ...]
    foreign_keys: tuple[ForeignKeyFate, ...]
    not_moved: tuple[NotMoved, ...]
    definitions: tuple[Definition, ...]

    def stage(self, name: str) -> tuple[Statement, ...]:
        """Return the statements of one stage in order."""
        return tuple(statement for statement in self.statements if statement.stage == name)

    @property
    def kept(self) -> tuple[ForeignKeyFate, ...]:
        """Return the foreign keys this shard gets."""
        return tuple(fate for fate in self.foreign_keys if fate.kept)

    @property
    def dropped(self) -> tuple[ForeignKeyFate, ...]:
        """Return the foreign keys this shard does not get."""
        return tuple(fate for fate in self.foreign_keys if not fate.kept)

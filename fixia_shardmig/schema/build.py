"""Builds each shard's DDL from the source's: takes what belongs there, sorts it into stages, lists what stays behind.

Refuses a shard whose tables cannot exist without a table that lives elsewhere (inheritance, a column of its row type).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from psycopg import sql

from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, ForeignKey
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.references import ForeignKeyFate, foreign_key_fates
from fixia_shardmig.schema.dump_text import Entry, split_statements
from fixia_shardmig.schema.shard_schema import STAGES, Definition, NotMoved, ShardSchema, Statement
from fixia_shardmig.schema.source import ObjectId, Owned, SourceDdl, read_source

PG_CLASS = 1259

# What has no rows and costs nothing: taken everywhere, and only noted where the target cannot make it.
_EVERYWHERE = frozenset(
    {
        *("SCHEMA", "EXTENSION", "TYPE", "SHELL TYPE", "DOMAIN", "COLLATION", "FUNCTION", "PROCEDURE", "AGGREGATE"),
        *("OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "CAST", "CONVERSION", "TRANSFORM", "ACCESS METHOD"),
        *("TEXT SEARCH PARSER", "TEXT SEARCH DICTIONARY", "TEXT SEARCH TEMPLATE", "TEXT SEARCH CONFIGURATION"),
        "PROCEDURAL LANGUAGE",
    }
)
_STAGE_OF_KIND = {
    "INDEX": "indexes",
    "CONSTRAINT": "constraints",
    "CHECK CONSTRAINT": "constraints",
    "FK CONSTRAINT": "foreign_keys",
    "STATISTICS": "finish",
    "RULE": "finish",
    "TRIGGER": "finish",
    "POLICY": "finish",
    "ROW SECURITY": "finish",
}
_TRIGGER_STATE = re.compile(r"ALTER TABLE .* ENABLE (ALWAYS|REPLICA) (?:TRIGGER|RULE) ", re.DOTALL)


def build(source_url: str, shard_map: ShardMap, catalog: Catalog, shard: str) -> ShardSchema:
    """Return the DDL of one shard; `build_all` reads the source once for all of them."""
    return build_all(source_url, shard_map, catalog, shards=(shard,))[shard]


def build_all(
    source_url: str, shard_map: ShardMap, catalog: Catalog, *, shards: tuple[str, ...] | None = None
) -> dict[str, ShardSchema]:
    """Return the DDL of each shard.

    Raises:
        RefusedError: A table of the source has no rule, or cannot exist on a shard without one that is not there.
    """
    unmapped = [str(table.name) for table in catalog.roots() if table.name not in shard_map.tables]
    if unmapped:
        raise RefusedError(
            f"the mapping has no rule for {', '.join(unmapped)}", hint="add a line for each to the mapping file"
        )
    wanted = shards or shard_map.shard_names
    absences = {shard: _absent(shard_map, catalog, shard) for shard in wanted}
    ddl = read_source(source_url, set(absences.values()))
    fates = foreign_key_fates(shard_map, catalog)
    return {shard: _Builder(ddl, shard_map, catalog, shard, absences[shard], fates).build() for shard in wanted}


def _absent(shard_map: ShardMap, catalog: Catalog, shard: str) -> frozenset[TableName]:
    here = {name for name in shard_map.tables if shard in shard_map.shards_of(name)}
    return frozenset(name for name, table in catalog.tables.items() if table.root not in here and not table.extension)


@dataclass(frozen=True, slots=True)
class _Step:
    """A statement before it has its ordinal; `rank` orders within the stage."""

    stage: str
    kind: str
    name: str
    sql: str
    table: TableName | None = None
    rank: int = 0
    lane: str = ""
    optional: bool = False


@dataclass
class _Builder:
    """Goes through the entries of the source once, for one shard."""

    ddl: SourceDdl
    shard_map: ShardMap
    catalog: Catalog
    shard: str
    absent: frozenset[TableName]
    fates: tuple[ForeignKeyFate, ...]
    steps: list[_Step] = field(default_factory=list)
    left: list[NotMoved] = field(default_factory=list)
    left_ids: set[ObjectId] = field(default_factory=set)
    stage_of: dict[int, str] = field(default_factory=dict)
    """Entry number -> its stage, for what was taken: comments and grants go with it."""
    taken_ids: set[ObjectId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.needs = self.ddl.needs[self.absent]
        self.keys = {(fate.key.table, fate.key.name): fate for fate in self._fates_here()}
        self.by_number = {entry.number: entry for entry in self.ddl.entries}
        self.by_name = {(o.relation.schema, o.name): o for (c, _), o in self.ddl.objects.items() if c == PG_CLASS}

    def build(self) -> ShardSchema:
        for entry in self.ddl.entries:
            self._entry(entry)
        self._owners()
        statements = self._numbered()
        return ShardSchema(
            shard=self.shard,
            source_major=self.ddl.major,
            statements=tuple(statements),
            foreign_keys=tuple(self.keys.values()),
            not_moved=tuple(self.left),
            definitions=tuple(d for oid, d in self.ddl.definitions if self._is_expected(oid, d)),
        )

    # What belongs here

    def _here(self, relation: TableName) -> bool:
        return relation in self.catalog.tables and relation not in self.absent

    def _fates_here(self) -> Iterator[ForeignKeyFate]:
        for fate in self.fates:
            if not self._here(fate.key.table):
                continue
            if fate.kept and not fate.kept_on(self.shard_map, self.catalog, self.shard):
                yield replace(fate, kept=False, reason=f"{fate.key.references} does not live on {self.shard}")
            else:
                yield fate

    def _entry(self, entry: Entry) -> None:
        owned = self.ddl.objects.get((entry.class_oid, entry.oid))
        if entry.kind in {"COMMENT", "ACL", "SEQUENCE OWNED BY", "ROW SECURITY"}:
            self._dependent(entry)
        elif entry.kind == "DEFAULT ACL":
            self._take(entry, _Step("finish", entry.kind, entry.name, entry.sql, optional=True))
        elif entry.kind in {"TABLE ATTACH", "INDEX ATTACH"}:
            self._attach(entry)
        elif owned is not None:
            self._of_relation(entry, owned)
        elif entry.kind in _EVERYWHERE:
            self._everywhere(entry)
        else:
            self._leave(entry, f"{_article(entry.kind)} is not moved")

    def _everywhere(self, entry: Entry) -> None:
        needed = self.needs.get((entry.class_oid, entry.oid))
        if needed is not None:
            self._leave(entry, f"it uses {needed}, which does not live on {self.shard}")
            return
        text = entry.sql
        if entry.kind == "SCHEMA":
            text = text.replace("CREATE SCHEMA ", "CREATE SCHEMA IF NOT EXISTS ", 1)
        self._take(entry, _Step("pre_data", entry.kind, entry.name, text, optional=True))

    def _of_relation(self, entry: Entry, owned: Owned) -> None:
        identity: ObjectId = (entry.class_oid, entry.oid)
        needed = self.needs.get(identity)
        if owned.detail == "ours":
            return
        if owned.relation_kind == "f":
            if entry.kind == "FOREIGN TABLE":
                self._leave(entry, "a foreign table is not moved")
        elif owned.relation_kind == "S":
            self._sequence(entry, owned.relation)
        elif owned.of_table and not self._here(owned.relation):
            return
        elif entry.kind == "TABLE" and needed is not None:
            raise RefusedError(
                f"{owned.relation} cannot be made on {self.shard}: it needs {needed}, which does not live there",
                hint=f"give both tables the same shard, or make {needed} a reference table, in the mapping",
            )
        elif entry.kind == "FK CONSTRAINT":
            self._foreign_key(entry, owned)
        elif needed is not None:
            if owned.of_table or entry.kind in {"VIEW", "MATERIALIZED VIEW"}:
                self._leave(entry, f"it uses {needed}, which does not live on {self.shard}")
        else:
            self._take_relation(entry, owned)

    def _take_relation(self, entry: Entry, owned: Owned) -> None:
        stage, kind = _STAGE_OF_KIND.get(entry.kind, "pre_data"), entry.kind
        if owned.detail in {"p", "identity"} and kind in {"INDEX", "CONSTRAINT"}:
            stage = "primary_keys"
        lane = "" if kind == "INDEX" and stage == "indexes" else str(owned.relation)
        step = _Step(stage, kind, owned.name, entry.sql, table=owned.relation, lane=lane)
        if kind in {"TRIGGER", "RULE"}:
            step = self._without_early_firing(step)
        self._take(entry, step)
        if owned.detail == "populated":
            name = sql.Identifier(owned.relation.schema, owned.relation.name).as_string()
            self.steps.append(
                replace(step, stage="finish", kind="REFRESH", sql=f"REFRESH MATERIALIZED VIEW {name};", optional=True)
            )

    def _without_early_firing(self, step: _Step) -> _Step:
        """Move ENABLE ALWAYS and ENABLE REPLICA behind the switch: applied changes would fire them once more."""
        statements = list(split_statements(step.sql))
        states = [text for text in statements if _TRIGGER_STATE.match(text)]
        if not states:
            return step
        self.steps.append(replace(step, stage="after_switch", kind=f"{step.kind} STATE", sql=states[-1]))
        others = [text for text in statements if text not in states]
        if states[-1].find(" ENABLE REPLICA ") >= 0 or not others:
            others.append(re.sub(r" ENABLE (?:ALWAYS|REPLICA) ", " DISABLE ", states[-1], count=1))
        return replace(step, sql="\n".join(others))

    def _sequence(self, entry: Entry, name: TableName) -> None:
        sequence = next((s for s in self.catalog.sequences if s.name == name), None)
        users = [table for table, _ in sequence.used_by] if sequence else []
        owner = sequence.owned_by[0] if sequence and sequence.owned_by else None
        if not users and owner is None:
            self._take(entry, _Step("pre_data", entry.kind, name.name, entry.sql, table=name))
        elif any(self._here(table) for table in [*users, *([owner] if owner else [])]):
            table = owner if owner and self._here(owner) else name
            self._take(entry, _Step("pre_data", entry.kind, name.name, entry.sql, table=table))

    def _foreign_key(self, entry: Entry, owned: Owned) -> None:
        fate = self.keys.get((owned.relation, owned.name))
        if fate is None or not fate.kept:
            self.left_ids.add((entry.class_oid, entry.oid))
            return
        unvalidated = "NOT VALID" in entry.sql or "NOT ENFORCED" in entry.sql
        later = not unvalidated and self.catalog.tables[owned.relation].kind != "p"
        text = entry.sql.rstrip().removesuffix(";") + " NOT VALID;" if later else entry.sql
        # Adding takes a lock on both tables for a moment: one after another, so that two never wait for each other.
        step = _Step("foreign_keys", entry.kind, owned.name, text, table=owned.relation, lane="foreign keys")
        self._take(entry, step)
        if later:
            validate = _validate(fate.key)
            self.steps.append(replace(step, kind="VALIDATE", sql=validate, rank=1, lane=str(owned.relation)))

    def _attach(self, entry: Entry) -> None:
        """Attach a partition, or its index; pg_dump gives these no OID, so that the name has to do."""
        owned = self.by_name.get((entry.schema, entry.name))
        if owned is None:
            raise RefusedError(f"pg_dump's entry {entry.kind} {entry.name} names nothing in the catalog")
        if not self._here(owned.relation):
            return
        stage = "pre_data" if entry.kind == "TABLE ATTACH" else "indexes"
        if entry.kind == "INDEX ATTACH" and owned.detail in {"p", "identity"}:
            stage = "primary_keys"
        elif entry.kind == "INDEX ATTACH" and owned.detail in {"u", "x"}:
            stage = "constraints"
        root = str(self.catalog.tables[owned.relation].root)
        rank = 0 if stage == "pre_data" else 1
        self._take(entry, _Step(stage, entry.kind, entry.name, entry.sql, table=owned.relation, rank=rank, lane=root))

    def _dependent(self, entry: Entry) -> None:
        """Take a comment, a grant or the like when what it is about was taken."""
        about = entry.depends_on[0] if entry.depends_on else 0
        of_schema = entry.name.startswith("SCHEMA ")  # of `public`, which is no entry of its own
        stage = self.stage_of.get(about) or ("pre_data" if of_schema else None)
        subject = self.by_number.get(about)
        if stage is None or (subject and subject.kind == "EXTENSION"):
            return
        owned = self.ddl.objects.get((subject.class_oid, subject.oid)) if subject else None
        step = _Step(stage, entry.kind, entry.name, entry.sql, table=owned.relation if owned else None, optional=True)
        if entry.kind == "ACL":
            self._grants(entry, step)
        elif entry.kind == "SEQUENCE OWNED BY":
            sequence = next(s for s in self.catalog.sequences if owned and s.name == owned.relation)
            if sequence.owned_by and self._here(sequence.owned_by[0]):
                self._take(entry, replace(step, table=sequence.owned_by[0], optional=False))
        elif entry.kind == "ROW SECURITY":
            self._take(entry, replace(step, stage="finish", optional=False))
        else:
            self._take(entry, replace(step, stage=stage if stage == "pre_data" else "finish"))

    def _grants(self, entry: Entry, step: _Step) -> None:
        """Take each grant as a step of its own, so that a role which is missing on the target costs only its own.

        Grants by another role (SET SESSION AUTHORIZATION) stay together, since a setting must not outlive them.
        """
        apart = "SET SESSION AUTHORIZATION" not in entry.sql
        for text in split_statements(entry.sql) if apart else (entry.sql,):
            self._take(entry, replace(step, stage="finish", sql=text))

    def _owners(self) -> None:
        for entry in self.ddl.entries:
            identity: ObjectId = (entry.class_oid, entry.oid)
            if entry.number in self.stage_of and identity in self.ddl.owners:
                name, text = self.ddl.owners[identity]
                owned = self.ddl.objects.get(identity)
                table = owned.relation if owned else None
                self.steps.append(_Step("finish", "OWNER", name, text + ";", table=table, optional=True))

    # Bookkeeping

    def _take(self, entry: Entry, step: _Step) -> None:
        if not entry.sql:
            return
        self.steps.append(step)
        self.stage_of.setdefault(entry.number, step.stage)
        self.taken_ids.add((entry.class_oid, entry.oid))

    def _leave(self, entry: Entry, reason: str) -> None:
        schema = "" if entry.schema == "-" else f"{entry.schema}."
        self.left.append(NotMoved(entry.kind.lower(), f"{schema}{entry.name}", reason))
        self.left_ids.add((entry.class_oid, entry.oid))

    def _is_expected(self, identity: ObjectId, definition: Definition) -> bool:
        if identity in self.left_ids:
            return False
        relation = TableName(definition.schema, definition.relation)
        if relation in self.catalog.tables:
            return self._here(relation)
        owned = self.ddl.objects.get(identity)
        if owned is not None and owned.relation_kind == "m":
            return (owned.relation.schema, owned.relation.name) not in self._left_relations()
        return identity in self.taken_ids

    def _left_relations(self) -> set[tuple[str, str]]:
        return {
            (o.relation.schema, o.relation.name) for i in self.left_ids if (o := self.ddl.objects.get(i)) is not None
        }

    def _numbered(self) -> Iterator[Statement]:
        """Order by stage and rank; within a rank of index builds the largest table goes first."""
        last = {"OWNER": 2, "ACL": 3, "DEFAULT ACL": 4, "REFRESH": 1, "COMMENT": 1}

        def order(numbered: tuple[int, _Step]) -> tuple[int, int, int, float, int]:
            place, step = numbered
            table = self.catalog.tables.get(step.table) if step.table else None
            size = table.size_bytes if table and step.stage in {"primary_keys", "indexes", "constraints"} else 0
            group = last.get(step.kind, 0) if step.stage == "finish" else 0
            return (STAGES.index(step.stage), step.rank, group, -size, place)

        for ordinal, (_, step) in enumerate(sorted(enumerate(self.steps), key=order), start=1):
            serial = step.stage in {"pre_data", "finish", "after_switch"}
            table = self.catalog.tables.get(step.table) if step.table else None
            yield Statement(
                ordinal=ordinal,
                stage=step.stage,
                rank=0 if serial else step.rank,
                lane="serial" if serial else step.lane or f"alone {ordinal}",
                kind=step.kind,
                table=step.table,
                root=table.root if table else step.table,
                name=step.name,
                sql=step.sql,
                optional=step.optional,
            )


def _validate(key: ForeignKey) -> str:
    statement = sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {};").format(
        sql.Identifier(key.table.schema, key.table.name), sql.Identifier(key.name)
    )
    return statement.as_string()


def _article(kind: str) -> str:
    words = kind.lower()
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"

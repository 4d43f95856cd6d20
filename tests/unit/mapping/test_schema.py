"""The JSON Schema accepts what the reader accepts and underlines what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fixia_shardmig.mapping.file_model import Section, keys_at
from fixia_shardmig.mapping.schema import mapping_schema
from fixia_shardmig.mapping.yaml_tree import read_tree
from tests.unit.mapping.mistakes import HEAD, whole

FULL = (
    HEAD
    + """\
pgbouncer: {admin_url: x, databases_file: f, aliases: {pros: a, shared: b}}
hooks: {on_switch: [./x]}
cache: {url: y, ttl: {users: 60}}
tables:
  users: {split_by: kind, homes: {a: pros}, otherwise: shared}
  people: {split_by: {column: roleId, references: Role, value: name}, homes: {a: pros}}
  members: {split_by: {sql: "kind"}}
  a: {follows: user_id}
  b: {follows: [x, y, {columns: [x, y], references: t, to: [a, b]}]}
  c: {follows: {columns: [x], references: t, to: [a]}, otherwise: shared}
  d: {shard: shared}
  e: {reference: true}
  f: {skip: why}
"""
)


def errors_in(text: str) -> list[str]:
    """Return where the schema refuses a file."""
    data: Any = read_tree(whole(text), "x").data
    return [error.json_path for error in Draft202012Validator(mapping_schema()).iter_errors(data)]


def test_the_schema_is_one() -> None:
    """It is valid itself and says which dialect it speaks."""
    Draft202012Validator.check_schema(mapping_schema())
    assert mapping_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_form_of_the_contract_is_accepted() -> None:
    """Each kind of rule and each section, in each way to write it."""
    assert [] == errors_in(FULL)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tables: {a: {shrad: x}}", "$.tables.a"),
        ("tables: {a: {shard: x, skip: y}}", "$.tables.a"),
        ("tables: {a: {}}", "$.tables.a"),
        ("tables: {a: {follows: [1]}}", "$.tables.a.follows"),
        ("tables: {a: {skip: true}}", "$.tables.a.skip"),
        (HEAD.replace("name: shop", "name: Shop") + "tables: {}", "$.name"),
        (HEAD.replace("journal: true", "journall: true") + "tables: {}", "$.shards.shared"),
        (HEAD, "$"),
    ],
)
def test_a_mistake_is_underlined(text: str, place: str) -> None:
    """An editor points at the rule that is wrong."""
    assert place in errors_in(text)


def test_every_section_knows_its_keys() -> None:
    """A mistyped key gets "did you mean" in every block: a section added later has to be added there too."""
    ways = [
        (),
        ("source",),
        ("shards", "a"),
        ("pgbouncer",),
        ("hooks",),
        ("cache",),
        ("tables", "a"),
        ("tables", "a", "follows"),
        ("tables", "a", "follows", 1),
        ("tables", "a", "split_by"),
    ]
    known = {keys_at(way, frozenset()) for way in ways} | {keys_at(("tables", "a", "split_by"), frozenset({"sql"}))}
    sections = {tuple(section.model_fields) for section in Section.__subclasses__()}
    assert sections == known

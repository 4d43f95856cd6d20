"""Mappings that a catalog accepts: what the file says arrives, frozen, as the other rooms know it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.mapping.problems import MappingProblems
from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    PgBouncer,
    Reference,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
    topological,
)
from fixia_shardmig.mapping.shard_map import Path as Reference_
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import catalog, index, table
from tests.unit.mapping.mistakes import HEAD, check_problems, checked, write
from tests.unit.mapping.shop import SPLIT, USERS, shop, tables


def test_a_good_mapping_becomes_the_frozen_map(tmp_path: Path) -> None:
    """Every kind of rule arrives as the other rooms know it, in the file's order of shards."""
    shard_map = checked(tmp_path, tables("logs: {skip: ' frozen since 2023 '}", "pair_notes: {shard: pros}"), shop())
    offers = Follows((Reference_(("user_id",), TableName("public", "users"), ("id",), declared=True),))
    assert {
        TableName("public", "users"): SplitByColumn("kind", {"client": "shared", "pro": "pros"}),
        TableName("public", "roles"): Reference(),
        TableName("public", "offers"): offers,
        TableName("public", "logs"): Skip("frozen since 2023"),
        TableName("public", "pairs"): offers,
        TableName("public", "pair_notes"): OnShard("pros"),
        TableName("public", "events"): offers,
        TableName("sales", "order"): Follows(
            (Reference_(("buyer",), TableName("public", "users"), ("id",), declared=True),)
        ),
    } == shard_map.tables
    assert (("pros", "shared"), "shared", "shop") == (shard_map.shard_names, shard_map.journal_shard, shard_map.name)


def test_the_whole_head_arrives(tmp_path: Path) -> None:
    """Pooler, hooks and cache are handed on, URLs normalized."""
    head = HEAD + (
        "pgbouncer: {admin_url: 'postgres://h/pgbouncer', databases_file: /etc/p.ini, aliases: {pros: a, shared: b}}\n"
        "hooks: {on_switch: [./repoint.sh]}\n"
        "cache: {url: redis://h/0, ttl: {public.users: 60}}\n"
    )
    shard_map = checked(tmp_path, head + tables(), shop())
    aliases = {"pros": "a", "shared": "b"}
    assert (PgBouncer("postgresql://h/pgbouncer", "/etc/p.ini", aliases),) == shard_map.pgbouncers
    assert (("./repoint.sh",), "redis://h/0", {"public.users": 60}) == (
        shard_map.on_switch,
        shard_map.cache_url,
        shard_map.cache_ttl,
    )


def test_several_poolers_are_a_list(tmp_path: Path) -> None:
    """One section, or a list of them; one whose variable is empty is none."""
    head = HEAD + (
        "pgbouncer:\n- {admin_url: 'postgres://h1/pgbouncer', databases_file: /a, aliases: {pros: a, shared: b}}\n"
        "- {admin_url: '${NOWHERE:-}', databases_file: /b, aliases: {pros: a, shared: b}}\n"
        "- {admin_url: 'postgres://h3/pgbouncer', databases_file: /c, aliases: {pros: c, shared: d}}\n"
    )
    found = checked(tmp_path, head + tables(), shop()).pgbouncers
    assert [("/a", "a"), ("/c", "c")] == [(one.databases_file, one.aliases["pros"]) for one in found]


def rule_of(directory: Path, rule: str, name: str = "logs") -> object:
    """Return the checked rule of one table of the shop."""
    return checked(directory, tables(f"{name}: {rule}"), shop()).tables[TableName.parse(name)]


def test_alternatives_keep_their_order(tmp_path: Path) -> None:
    """Pitfall 8: the first that is not NULL decides, so the order is the file's; a list may hold long forms."""
    rule = rule_of(tmp_path, "{follows: [offer_id, {columns: [owner], references: users, to: [id]}]}")
    users, offers = TableName("public", "users"), TableName("public", "offers")
    assert rule == Follows(
        (
            Reference_(("offer_id",), offers, ("id",), declared=True),
            Reference_(("owner",), users, ("id",), declared=False),
        )
    )


@pytest.mark.parametrize(
    "form",
    [
        "{columns: [b, a], references: pairs, to: [b, a]}",
        "{columns: [a, b], references: pairs}",
        "{columns: [a, b]}",
        "[{columns: [a, b], references: public.pairs, to: [a, b]}]",
    ],
)
def test_a_composite_key_is_known_as_declared_in_any_order(tmp_path: Path, form: str) -> None:
    """The order of the columns, and what the foreign key tells anyway, need not be written."""
    rule = rule_of(tmp_path, f"{{follows: {form}}}", "pair_notes")
    assert isinstance(rule, Follows)
    path = rule.paths[0]
    assert ({("a", "a"), ("b", "b")}, True) == (set(zip(path.columns, path.to, strict=True)), path.declared)


def test_a_composite_key_crossed_over_is_not_the_declared_one(tmp_path: Path) -> None:
    """Columns that point to each other's partner are another reference than the foreign key."""
    rule = rule_of(tmp_path, "{follows: {columns: [a, b], references: pairs, to: [b, a]}}", "pair_notes")
    assert isinstance(rule, Follows)
    assert not rule.paths[0].declared


def test_a_reference_without_to_points_to_the_primary_key(tmp_path: Path) -> None:
    """What is not declared and not written is the parent's key."""
    rule = rule_of(tmp_path, "{follows: {columns: [owner], references: users}}")
    assert rule == Follows((Reference_(("owner",), TableName("public", "users"), ("id",), declared=False),))


def test_a_table_may_reference_itself_as_long_as_another_column_decides(tmp_path: Path) -> None:
    """Pitfall 12: a counter-offer references its parent, and both live with their own user."""
    shard_map = checked(tmp_path, tables("offers: {follows: user_id}"), shop())
    order = topological(shard_map.tables)
    offers, users = TableName("public", "offers"), TableName("public", "users")
    assert order.index(users) < order.index(offers)


def test_texts_of_any_length_and_integers_of_any_width_agree(tmp_path: Path) -> None:
    """A varchar and a citext follow a text, an int8 and an int2 follow an int4: equal keys read the same."""
    source = catalog(
        table("users", "id text!", "no int4!", "kind text!", indexes=[index("no")]),
        table("a", "id text!", "user_id varchar!"),
        table("c", "id text!", "user_id citext!"),
        table("b", "id text!", "user_no int8!"),
        table("d", "id text!", "user_no int2!"),
        keys=["b(user_no) -> users(no)"],
    )
    text = """\
        tables:
          users: {split_by: kind, homes: {x: pros}}
          a: {follows: {columns: [user_id], references: users, to: [id]}}
          c: {follows: {columns: [user_id], references: users, to: [id]}}
          b: {follows: user_no}
          d: {follows: {columns: [user_no], references: users, to: [no]}}
        """
    assert len(checked(tmp_path, text, source).tables) == 5


@pytest.mark.parametrize("column", ["interval", "jsonb"])
def test_a_key_with_several_texts_for_one_value_is_not_followed(tmp_path: Path, column: str) -> None:
    """The stream shows texts alone, so a child that spells its parent's key otherwise would be taken for a stranger."""
    source = catalog(
        table("users", f"id {column}!", "kind text!"),
        table("logs", "id text!", f"user_id {column}!"),
        keys=["logs(user_id) -> users(id)"],
    )
    text = """\
        tables:
          users: {split_by: kind, homes: {x: pros}}
          logs: {follows: user_id}
        """
    with pytest.raises(MappingProblems, match="can read differently, so it cannot be followed"):
        checked(tmp_path, text, source)


@pytest.mark.parametrize("fault", [{"partial": True}, {"valid": False}])
def test_a_partial_or_broken_index_makes_nothing_unique(tmp_path: Path, fault: dict[str, bool]) -> None:
    """An index over some rows, or one that CREATE INDEX CONCURRENTLY left behind, does not name one parent."""
    source = catalog(
        table("users", "id text!", "kind text!", "email text!", indexes=[index("email", **fault)]),
        table("logs", "id text!", "email text!"),
    )
    text = """\
        tables:
          users: {split_by: kind, homes: {x: pros}}
          logs: {follows: {columns: [email], references: users, to: [email]}}
        """
    assert ["email is not unique in users, so it names no single row to follow"] == [
        problem.message for problem in check_problems(tmp_path, text, source)
    ]


def test_a_nullable_or_open_split_is_for_the_plan_to_judge(tmp_path: Path) -> None:
    """Whether a NULL or an unknown text is there only the data tells, so no `otherwise` is demanded."""
    rule = rule_of(tmp_path, "{split_by: note, homes: {b: pros, a: shared}}", "users")
    assert rule == SplitByColumn("note", {"a": "shared", "b": "pros"})


@pytest.mark.parametrize(
    ("column", "homes", "expected"),
    [
        ("active", "{True: pros, false: shared}", {"true": "pros", "false": "shared"}),
        ("level", "{1: pros, -2: shared}", {"1": "pros", "-2": "shared"}),
        ("note", "{007: pros, yes: shared}", {"007": "pros", "yes": "shared"}),
        ("kind", "{pro: pros, client: pros}", {"pro": "pros", "client": "pros"}),
    ],
)
def test_homes_read_as_postgresql_writes_the_values(
    tmp_path: Path, column: str, homes: str, expected: dict[str, str]
) -> None:
    """YAML's booleans and integers become the text that PostgreSQL gives for them."""
    rule = rule_of(tmp_path, f"{{split_by: {column}, homes: {homes}}}", "users")
    assert rule == SplitByColumn(column, expected)


def test_the_order_of_homes_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    """Moving a line in the file is no drift; another home is."""
    prints = [
        checked(tmp_path, tables(f"users: {{split_by: kind, homes: {homes}}}"), shop()).fingerprint()
        for homes in ("{pro: pros, client: shared}", "{client: shared, pro: pros}", "{client: pros, pro: pros}")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_kind_may_stand_in_a_reference_table(tmp_path: Path) -> None:
    """Pitfall 11: the column pointed to is the foreign key's, or else the primary key."""
    source = catalog(
        table("User", "id int4!", '"roleId" int4', pk="id"),
        table("Role", "id int4!", "name text!"),
        keys=["User(roleId) -> Role(id)"],
    )
    text = """\
        tables:
          User:
            split_by: {column: roleId, references: Role, value: name}
            homes: {PRO: pros}
            otherwise: shared
          Role: {reference: true}
        """
    rule = checked(tmp_path, text, source).tables[TableName("public", "User")]
    assert rule == SplitByReference("roleId", TableName("public", "Role"), "id", "name", {"PRO": "pros"}, "shared")


EXPRESSIONS = {
    "case when active <> 1 then 'note' else level end": ("active", "level"),
    'case when "Kind" = 1 then "level" end': ("Kind", "level"),
    "KIND || E'it\\'s note' -- active": ("kind",),
    "/* note */ users.level + $$kind$$::int": ("level",),
    "lower(note)": ("note",),
    "to_jsonb(users)": ("id", "kind", "Kind", "active", "level", "note", 'od"d'),
    '"od""d"': ('od"d',),
    "age(level)": ("level",),
    "users.*::text": ("id", "kind", "Kind", "active", "level", "note", 'od"d'),
}


@pytest.mark.parametrize(("expression", "columns"), EXPRESSIONS.items())
def test_an_expressions_columns_are_its_identifiers(tmp_path: Path, expression: str, columns: tuple[str, ...]) -> None:
    """Texts and comments hold no columns, quoted names keep their case, the table's name means the whole row."""
    source = catalog(
        table(
            "users",
            "id text!",
            "kind text",
            '"Kind" int4',
            "active int4",
            "level int4",
            "note text",
            "age int4 generated",
        )
    )
    users = source.tables[TableName("public", "users")]
    wider = replace(users, columns=(*users.columns, replace(users.columns[0], name='od"d', number=9)))
    path = write(tmp_path, "tables:\n  users:\n    split_by:\n      sql: |\n        " + expression)
    rule = check_mapping(read_mapping(path, {}), catalog(wider)).tables[TableName("public", "users")]
    assert rule == SplitBySql(expression, columns, {})


def test_names_may_be_quoted_and_qualified(tmp_path: Path) -> None:
    """Pitfall 52: camelCase, dots, the same name in two schemas, `public.` or not: exact names, case kept."""
    source = catalog(
        table("User", "id text!", '"userType" enum(a|b)!'),
        table('"with.dot"', "id text!", '"userId" text!'),
        table("sales.User", "id text!"),
        keys=['"with.dot"(userId) -> User(id)'],
    )
    text = """\
        tables:
          public.User: {split_by: userType, homes: {a: pros, b: shared}}
          '"with.dot"': {follows: userId}
          '"sales"."User"': {shard: pros}
        """
    rules = checked(tmp_path, text, source).tables
    assert [TableName("public", "User"), TableName("public", "with.dot"), TableName("sales", "User")] == list(rules)


def test_an_inheritance_child_needs_its_own_rule(tmp_path: Path) -> None:
    """Pitfall 31: partitions follow their root, but a child by INHERITS is a table of its own."""
    source = catalog(USERS, table("old_users", "id text!", inherits=["users"]))
    problems = check_problems(tmp_path, f"tables:\n  {SPLIT}", source)
    assert ["no rule for the table old_users"] == [problem.message for problem in problems]


def test_a_foreign_key_to_a_partition_follows_its_root(tmp_path: Path) -> None:
    """Pitfall 31: the root is what has a home; its partitions are where the rows lie."""
    source = catalog(
        table("users", "id text!", "kind text!", kind="p"),
        table("users_1", "id text!", "kind text!", partition_of="users"),
        table("notes", "id text!", "user_id text!"),
        keys=["notes(user_id) -> users_1(id)"],
    )
    text = "tables:\n  users: {split_by: kind, homes: {a: pros}}\n  notes: {follows: user_id}"
    rule = checked(tmp_path, text, source).tables[TableName("public", "notes")]
    assert rule == Follows((Reference_(("user_id",), TableName("public", "users"), ("id",), declared=True),))


def test_urls_that_are_not_filled_in_are_compared_as_written(tmp_path: Path) -> None:
    """Without variables two shards of one `${NAME}` are still one database."""
    text = HEAD.replace('"postgresql://app:hunter2@db/pros"', '"${A}"').replace(
        '"postgresql://app:hunter2@db/shared"', '"${A}"'
    )
    mapping_file = read_mapping(write(tmp_path, text + tables()), {}, expand_urls=False)
    with pytest.raises(MappingProblems, match="shared is the same database as the shard pros"):
        check_mapping(mapping_file, shop())

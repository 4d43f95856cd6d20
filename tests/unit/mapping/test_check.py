"""Mappings that a catalog refuses: each mistake of meaning has its exact place and says what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.mapping.problems import Problem
from fixia_shardmig.model.catalog import Catalog
from tests.fixtures.fix_catalogs import catalog, table
from tests.unit.mapping.mistakes import HEAD, check_problems, checked, place_of_mark
from tests.unit.mapping.shop import SPLIT, USERS, shop, tables

MISTAKES = {
    "an unknown table": (tables("^ofers: {shard: pros}"), "unknown table 'ofers'", "did you mean offers?"),
    "a table in another case": (tables("^Users: {shard: pros}"), "unknown table 'Users'", "did you mean users?"),
    "a table without its schema": (
        tables("^order: {shard: pros}"),
        "unknown table 'order'",
        "did you mean sales.order?",
    ),
    "a view": (
        tables("^v_users: {shard: pros}"),
        "v_users is a view, which holds no rows of its own to move",
        "leave it out",
    ),
    "a partition": (
        tables("^events_2024: {shard: pros}"),
        "events_2024 is a partition and lives where its root says",
        "write events",
    ),
    "an extension's table": (
        tables("^spatial: {shard: pros}"),
        "spatial belongs to the extension postgis, which brings it itself",
        "leave it out",
    ),
    "a table without a rule": (
        "^" + tables(without="offers"),
        "no rule for the table offers",
        "add offers: {follows: user_id}",
    ),
    "a composite follower without a rule": (
        "^" + tables(without="pair_notes"),
        "no rule for the table pair_notes",
        "add pair_notes: {follows: {columns: [a, b], references: pairs, to: [a, b]}}",
    ),
    "a nullable follower without a rule": (
        "^" + tables(without="logs"),
        "no rule for the table logs",
        "add logs: {follows: offer_id, otherwise: shared}",
    ),
    "an unknown shard": (tables("roles: {shard: ^shred}"), "unknown shard 'shred'", "did you mean shared?"),
    "an unknown shard in otherwise": (
        tables("logs: {follows: offer_id, otherwise: ^prs}"),
        "unknown shard 'prs'",
        "did you mean pros?",
    ),
    "an unknown shard in homes": (
        tables("users: {split_by: kind, homes: {pro: pros, client: ^x}}"),
        "unknown shard 'x'",
        "known here: pros, shared",
    ),
    "an unknown shard in a split's otherwise": (
        tables("users: {split_by: kind, homes: {pro: pros}, otherwise: ^x}"),
        "unknown shard 'x'",
        "known here: pros, shared",
    ),
    # --- split
    "an unknown split column": (
        tables("users: {split_by: ^kinds, homes: {pro: pros}}"),
        "unknown column 'kinds' in users",
        "did you mean kind?",
    ),
    "a generated split column": (
        tables("users: {split_by: ^age, homes: {'1': pros}}"),
        "age in users is generated, so the stream of changes does not carry it",
        "decide by the columns it is computed from",
    ),
    "an enum value without a home": (
        tables("users: {split_by: kind, ^homes: {pro: pros}}"),
        "no home for client",
        "add client: SHARD to homes, or otherwise: SHARD",
    ),
    "a home for a value the enum lacks": (
        tables("users: {split_by: kind, homes: {pro: pros, client: shared, ^clients: pros}}"),
        "kind is never 'clients'",
        "did you mean client?",
    ),
    "half a boolean": (
        tables("users: {split_by: active, ^homes: {true: pros}}"),
        "no home for false",
        "add false: SHARD to homes, or otherwise: SHARD",
    ),
    "a boolean as PostgreSQL's letter": (
        tables("users: {split_by: active, homes: {^t: pros}, otherwise: shared}"),
        "active is never 't'",
        "known here: false, true",
    ),
    "an integer with a leading zero": (
        tables("users: {split_by: level, homes: {1: pros, ^02: shared}}"),
        "level is never '02', it is of type int2",
        "write 2",
    ),
    "an integer too large": (
        tables("users: {split_by: level, homes: {-32768: pros, ^32768: shared}}"),
        "level is never '32768', it is of type int2",
        "write a number it can hold",
    ),
    "a split by a table that is not everywhere": (
        tables(
            "roles: {shard: pros}",
            "users: {split_by: {column: role_id, references: ^roles, to: id, value: name}, homes: {a: pros}}",
        ),
        "roles tells homes, so it has to live on every shard",
        "write roles: {reference: true}",
    ),
    "a split by a referenced value that is not there": (
        tables("users: {split_by: {column: note, references: roles, to: name, value: ^nme}, homes: {a: pros}}"),
        "unknown column 'nme' in roles",
        "did you mean name?",
    ),
    "a split by a column that is not unique": (
        tables("users: {split_by: {column: kind, references: roles, to: ^label, value: name}, homes: {a: pros}}"),
        "label is not unique in roles",
        "add UNIQUE (label)",
    ),
    "a split by keys of other types": (
        tables("users: {split_by: {column: ^note, references: roles, value: name}, homes: {a: pros}}"),
        "note is text, but id of roles is int4",
        "name columns of the same type",
    ),
    "a split by an enum of a referenced table": (
        tables("users: {split_by: {column: ^note, references: roles, value: label}, homes: {pro: pros, client: pros}}"),
        "note is text, but id of roles is int4",
        "name columns of the same type",
    ),
    "an expression without columns": (
        tables("users: {split_by: {sql: ^\"'pros'\"}}"),
        "the expression reads no column of users",
        "write {shard: SHARD} when all rows live together",
    ),
    "an expression over a generated column": (
        tables('users: {split_by: {sql: ^"case when age = note then 1 end"}}'),
        "age in users is generated, so the stream of changes does not carry it",
        "decide by the columns it is computed from",
    ),
    "an expression over other rows": (
        tables('users: {split_by: {sql: ^"(select note from roles)"}}'),
        "the expression reads other rows (select)",
        "use the row's own columns, or {column, references, value}",
    ),
    "an expression that changes": (
        tables('users: {split_by: {sql: ^"note || now()"}}'),
        "now changes over time, and a home must not",
        "use the row's own columns only",
    ),
    "two statements": (
        tables('users: {split_by: {sql: ^"note; commit"}}'),
        "the expression holds a semicolon",
        "write one expression, not statements",
    ),
    # --- follows
    "an unknown followed column": (
        tables("offers: {follows: ^userid}"),
        "unknown column 'userid' in offers",
        "did you mean user_id?",
    ),
    "an unknown alternative": (
        tables("offers: {follows: [user_id, ^ids]}"),
        "unknown column 'ids' in offers",
        "did you mean id?",
    ),
    "a column with several foreign keys": (
        tables("offers: {follows: ^other_id}"),
        "other_id has several foreign keys, to users, roles",
        "write {columns: [other_id], references: users, to: [id]}, or another one of them",
    ),
    "a column without a foreign key": (
        tables("logs: {follows: ^owner}"),
        "owner of logs has no foreign key, so what it points to has to be said",
        "write {columns: [owner], references: TABLE, to: [COLUMN]}",
    ),
    "a part of a composite key": (
        tables("pair_notes: {follows: ^a}"),
        "a is part of a foreign key of several columns",
        "write {columns: [a, b], references: pairs, to: [a, b]}",
    ),
    "an unknown referenced table": (
        tables("logs: {follows: {columns: [owner], references: ^user, to: [id]}}"),
        "unknown table 'user'",
        "did you mean users?",
    ),
    "a referenced partition": (
        tables("logs: {follows: {columns: [owner], references: ^events_2024, to: [id]}}"),
        "events_2024 is a partition and lives where its root says",
        "write events",
    ),
    "an unknown referenced column": (
        tables("logs: {follows: {columns: [owner], references: users, to: [^uid]}}"),
        "unknown column 'uid' in users",
        "did you mean id?",
    ),
    "an unknown column written out": (
        tables("logs: {follows: {columns: [^ownr], references: users, to: [id]}}"),
        "unknown column 'ownr' in logs",
        "did you mean owner?",
    ),
    "more columns than it points to": (
        tables("logs: {follows: {columns: [owner, offer_id], references: users, to: ^[id]}}"),
        "2 columns cannot point to 1 of users",
        "write as many in to: as in columns:",
    ),
    "to without references": (
        tables("logs: {follows: ^{columns: [owner], to: [id]}}"),
        "to: without references: points nowhere",
        "add references: TABLE and to: [COLUMN]",
    ),
    "columns without any foreign key": (
        tables("logs: {follows: ^{columns: [owner]}}"),
        "no foreign key of logs has the columns owner",
        "add references: TABLE and to: [COLUMN]",
    ),
    "a parent's column that is not unique": (
        tables("logs: {follows: {columns: [owner], references: users, to: ^[note]}}"),
        "note is not unique in users, so it names no single row to follow",
        "name a unique column, or add UNIQUE (note) on the source",
    ),
    "keys of other types": (
        tables("logs: {follows: {columns: [^size], references: users, to: [id]}}"),
        "size is int8, but id of users is text",
        "follow a column of the same type, or change its type on the source",
    ),
    "a generated key": (
        tables("offers: {follows: [^total, user_id]}"),
        "total in offers is generated, so the stream of changes does not carry it",
        "decide by the columns it is computed from",
    ),
    "the same column twice": (
        tables("offers: {follows: [user_id, ^user_id]}"),
        "user_id stands twice",
        "keep the first one",
    ),
    "a follow to a reference table": (
        tables("offers: {follows: ^{columns: [other_id], references: roles, to: [name]}}"),
        "roles lives on every shard and so decides nothing",
        "follow user_id",
    ),
    "a follow to a skipped table": (
        tables("offers: {skip: old}", "logs: {follows: ^offer_id, otherwise: pros}"),
        "offers is skipped, so no shard has the row to follow",
        "write {skip: REASON} or {shard: SHARD}",
    ),
    "a follow to a table on one shard": (
        tables("offers: {shard: pros}", "logs: {follows: ^offer_id, otherwise: pros}"),
        "offers lives on pros as a whole, so this ends at no split",
        "write {shard: pros}",
    ),
    "an alternative to a table on one shard": (
        tables(
            "offers: {shard: pros}",
            "logs: {follows: [{columns: [owner], references: users, to: [id]}, ^offer_id], otherwise: pros}",
        ),
        "offers lives on pros as a whole, so this ends at no split",
        "leave it out; when it comes last, write otherwise: pros for it",
    ),
    "a table that only follows itself": (
        tables("offers: {follows: ^parent_id}"),
        "offers only follows itself by parent_id, which decides nothing",
        "follow user_id, which every row has",
    ),
    "a table that follows itself first": (
        tables("offers: {follows: [^parent_id, user_id]}"),
        "offers follows itself by parent_id, which decides nothing",
        "leave parent_id out, the other columns decide",
    ),
    "a table that follows itself last": (
        tables("offers: {follows: [user_id, ^parent_id]}"),
        "offers follows itself by parent_id, which decides nothing",
        "leave parent_id out, the other columns decide",
    ),
    "a table that follows itself by a column that nothing declares": (
        tables("pairs: {follows: [user_id, ^{columns: [b, a], references: pairs, to: [a, b]}]}"),
        "pairs follows itself by b, a, which decides nothing",
        "leave b, a out, the other columns decide",
    ),
    "shards in the source": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', '^"postgres://x@db:5432/shop?sslmode=require"') + tables(),
        "pros is the same database as the source",
        "give each shard a database of its own",
    ),
    "two shards in one database": (
        HEAD.replace('"postgresql://app:hunter2@db/shared"', '^"postgresql://app:hunter2@db/pros"') + tables(),
        "shared is the same database as the shard pros",
        "give each shard a database of its own",
    ),
    "a lifetime for an unknown table": (
        HEAD + "cache: {ttl: {roles: 60, ^role: 60}}\n" + tables(),
        "unknown table 'role'",
        "did you mean roles?",
    ),
}


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_of_meaning_is_named_at_its_place(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """Pitfall 9: every mistake gives one problem with exactly this place, message and hint; nothing is guessed."""
    line, column = place_of_mark(text)
    expected = Problem(str(tmp_path / "shop.yaml"), line, column, message, hint)
    assert (expected,) == check_problems(tmp_path, text, shop())


def test_every_mistake_of_meaning_is_reported_at_once(tmp_path: Path) -> None:
    """Mistakes in several tables, a table without a rule and a shard in the source come in one go, in order."""
    text = """\
        version: 1
        name: shop
        source: {url: "postgresql://db/shop"}
        shards:
          pros: {url: "postgresql://db/shop"}
          shared: {url: "postgresql://db/shared", journal: true}
        tables:
          users: {split_by: kinds, homes: {pro: prs}}
          roles: {reference: true}
          offers: {follows: user}
          logs: {follows: owner}
          pairs: {follows: user_id}
          pair_notes: {shard: shard}
          events: {follows: user_id}
        """
    lines = [
        "5:15: pros is the same database as the source; hint: give each shard a database of its own",
        "7:1: no rule for the table sales.order; hint: add sales.order: {follows: buyer}",
        "8:21: unknown column 'kinds' in users; hint: did you mean kind?",
        "8:41: unknown shard 'prs'; hint: did you mean pros?",
        "10:21: unknown column 'user' in offers; hint: did you mean user_id?",
        (
            "11:19: owner of logs has no foreign key, so what it points to has to be said; "
            "hint: write {columns: [owner], references: TABLE, to: [COLUMN]}"
        ),
        "13:23: unknown shard 'shard'; hint: did you mean shared?",
    ]
    problems = check_problems(tmp_path, text, shop())
    assert [f"{tmp_path / 'shop.yaml'}:{line}" for line in lines] == [str(problem) for problem in problems]


def circle() -> Catalog:
    """Users belong to organizations, organizations to users, and teams stand between."""
    return catalog(
        table("users", "id text!", "organization_id text!", "kind text!"),
        table("organizations", "id text!", "owner_id text!", "team_id text"),
        table("teams", "id text!", "organization_id text!", "country_id text"),
        table("countries", "id text!", "kind text!"),
        keys=[
            "users(organization_id) -> organizations(id)",
            "organizations(owner_id) -> users(id)",
            "organizations(team_id) -> teams(id)",
            "teams(organization_id) -> organizations(id)",
            "teams(country_id) -> countries(id)",
        ],
    )


def test_rules_in_a_circle_are_refused_once(tmp_path: Path) -> None:
    """Pitfall 12: users follow organizations, which follow users: nobody's home is ever decided."""
    text = """\
        tables:
          users: {follows: ^organization_id}
          organizations: {follows: owner_id}
          teams: {follows: country_id, otherwise: pros}
          countries: {split_by: kind, homes: {a: pros}}
        """
    message = "the rules go in a circle: users -> organizations -> users"
    hint = "write organizations: {follows: team_id}"
    expected = Problem(str(tmp_path / "shop.yaml"), *place_of_mark(text), message, hint)
    assert (expected,) == check_problems(tmp_path, text, circle())


def test_a_circle_over_an_alternative_is_one_too(tmp_path: Path) -> None:
    """Pitfall 12: a second column closes a circle as well as a first one, over any number of tables."""
    text = """\
        tables:
          countries: {split_by: kind, homes: {a: pros}}
          teams: {follows: [country_id, ^organization_id]}
          organizations: {follows: [team_id, owner_id]}
          users: {follows: organization_id}
        """
    message = "the rules go in a circle: teams -> organizations -> teams"
    hint = "write teams: {follows: country_id}"
    expected = Problem(str(tmp_path / "shop.yaml"), *place_of_mark(text), message, hint)
    assert (expected,) == check_problems(tmp_path, text, circle())


def test_a_circle_without_a_way_out_says_so(tmp_path: Path) -> None:
    """Pitfall 12: where no foreign key leads out, one of the tables has to be split or kept whole."""
    source = catalog(
        table("a", "id text!", "b_id text!"),
        table("b", "id text!", "a_id text!"),
        keys=["a(b_id) -> b(id)", "b(a_id) -> a(id)"],
    )
    problems = check_problems(tmp_path, "tables:\n  b: {follows: a_id}\n  a: {follows: b_id}", source)
    hint = "give one of them split_by or {shard: SHARD}, for example b"
    assert [("the rules go in a circle: b -> a -> b", hint)] == [(one.message, one.hint) for one in problems]


def test_a_split_table_ends_a_circle_of_foreign_keys(tmp_path: Path) -> None:
    """Pitfall 12: users and organizations reference each other; a split at one of them decides both."""
    text = """\
        tables:
          users: {split_by: kind, homes: {a: pros}}
          organizations: {follows: owner_id}
          teams: {follows: organization_id}
          countries: {reference: true}
        """
    assert len(checked(tmp_path, text, circle()).tables) == 4


def test_a_text_does_not_follow_a_citext(tmp_path: Path) -> None:
    """Pitfall 50: `A` and `a` are one citext, but not where a text is compared with it; such a path has two answers."""
    source = catalog(table("users", "id citext!", "kind text!"), table("a", "id text!", "user_id text!"))
    text = """\
        tables:
          users: {split_by: kind, homes: {x: pros}}
          a: {follows: {columns: [user_id], references: users, to: [id]}}
        """
    assert ["user_id is text, but id of users is citext"] == [
        one.message for one in check_problems(tmp_path, text, source)
    ]


def test_a_chain_that_ends_on_one_shard_is_refused_along_its_length(tmp_path: Path) -> None:
    """Each table of a chain below a whole table is named in one go, not one a run."""
    source = catalog(
        table("a", "id text!"),
        table("b", "id text!", "a_id text!"),
        table("c", "id text!", "b_id text!"),
        keys=["b(a_id) -> a(id)", "c(b_id) -> b(id)"],
    )
    text = "tables:\n  c: {follows: b_id}\n  b: {follows: a_id}\n  a: {shard: pros}"
    problems = check_problems(tmp_path, text, source)
    assert [(8, "write {shard: pros}"), (9, "write {shard: pros}")] == [(one.line, one.hint) for one in problems]


def test_a_table_that_only_follows_itself_is_told_what_else_it_could_follow(tmp_path: Path) -> None:
    """Pitfall 12: a nullable column is proposed together with the `otherwise` it needs; with none, another rule is."""
    source = catalog(
        USERS,
        table("nodes", "id text!", "parent_id text", "user_id text"),
        table("alone", "id text!", "parent_id text"),
        keys=["nodes(parent_id) -> nodes(id)", "nodes(user_id) -> users(id)", "alone(parent_id) -> alone(id)"],
    )
    text = f"tables:\n  {SPLIT}\n  nodes: {{follows: parent_id}}\n  alone: {{follows: parent_id}}"
    hints = [problem.hint for problem in check_problems(tmp_path, text, source)]
    expected = [
        "follow user_id, with otherwise: SHARD for rows without it",
        "write {shard: SHARD}, or {split_by: COLUMN, homes: ...}",
    ]
    assert expected == hints


def test_a_hint_at_several_foreign_keys_shows_one_that_can_decide(tmp_path: Path) -> None:
    """Pitfall 12: the column also points to its own table, which the hint must not send anybody to."""
    source = catalog(
        USERS,
        table("nodes", "id text!", "other_id text!"),
        keys=["nodes(other_id) -> nodes(id)", "nodes(other_id) -> users(id)"],
    )
    text = f"tables:\n  {SPLIT}\n  nodes: {{follows: other_id}}"
    hint = "write {columns: [other_id], references: users, to: [id]}, or another one of them"
    assert [hint] == [problem.hint for problem in check_problems(tmp_path, text, source)]

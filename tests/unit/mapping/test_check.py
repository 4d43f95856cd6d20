"""Holding a mapping against a catalog: each mistake of meaning has its exact place and says what to write instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.mapping.problems import MappingProblems, Problem
from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Reference,
    Skip,
    SplitByColumn,
    SplitByReference,
    SplitBySql,
    topological,
)
from fixia_shardmig.mapping.shard_map import Path as Reference_
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import catalog, index, table
from tests.unit.mapping.mistakes import HEAD, check_problems, checked, place_of_mark, write

USERS = table(
    "users",
    "id text!",
    "kind enum(pro|client)!",
    "active bool!",
    "level int2",
    "role_id int4",
    "note text",
    "age text generated",
)
ROLES = table("roles", "id int4!", "name text!", "label enum(pro|client)", indexes=[index("name")])
SPLIT = "users: {split_by: kind, homes: {pro: pros, client: shared}}"


def shop() -> Catalog:
    """A catalog with one of everything that a rule can trip over."""
    return catalog(
        USERS,
        ROLES,
        table("offers", "id text!", "user_id text!", "parent_id text", "other_id text", "total text generated"),
        table("logs", "id int8!", "owner text!", "offer_id text", "size int8", "user_no int8"),
        table("pairs", "a text!", "b text!", "user_id text!", pk="a,b"),
        table("pair_notes", "id text!", "a text!", "b text!"),
        table("events", "id text!", "user_id text!", kind="p"),
        table("events_2024", "id text!", "user_id text!", partition_of="events"),
        table("sales.order", "id text!", "buyer text!"),
        table("spatial", "id text!", extension="postgis"),
        keys=[
            "offers(user_id) -> users(id) c",
            "offers(parent_id) -> offers(id) c",
            "offers(other_id) -> users(id)",
            "offers(other_id) -> roles(name)",
            "logs(offer_id) -> offers(id) n",
            "pairs(user_id) -> users(id)",
            "pair_notes(a,b) -> pairs(a,b)",
            "events(user_id) -> users(id)",
            "sales.order(buyer) -> users(id)",
        ],
        others=[("view", "v_users")],
    )


REST = {
    "users": SPLIT,
    "roles": "roles: {reference: true}",
    "offers": "offers: {follows: user_id}",
    "logs": "logs: {follows: offer_id, otherwise: shared}",
    "pairs": "pairs: {follows: user_id}",
    "pair_notes": "pair_notes: {follows: {columns: [a, b], references: pairs, to: [a, b]}}",
    "events": "events: {follows: user_id}",
    "sales.order": "sales.order: {follows: buyer}",
}


def tables(*lines: str, without: str = "") -> str:
    """Return a `tables:` part: the given lines, and the usual rule for every other table but `without`."""
    given = {line.replace("^", "").partition(":")[0].strip('"') for line in lines} | set(without.split())
    usual = [line for name, line in REST.items() if name not in given]
    return "tables:\n" + "".join(f"  {line}\n" for line in (*lines, *usual))


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
        tables(
            "users: {split_by: {column: ^level, references: roles, value: label}, homes: {pro: pros, client: pros}}"
        ),
        "level is int2, but id of roles is int4",
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
    "integers of other widths that nothing declares": (
        tables(
            "roles: {split_by: name, homes: {a: pros}}",
            "logs: {follows: [{columns: [^user_no], references: roles, to: [id]}, offer_id], otherwise: shared}",
        ),
        "user_no is int8, but id of roles is int4",
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
        "follow user_id, and write otherwise: SHARD for rows without it",
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


# --- what is accepted -------------------------------------------------------------------------------------------------


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
    assert shard_map.pgbouncer is not None
    assert ("postgresql://h/pgbouncer", {"pros": "a", "shared": "b"}) == (
        shard_map.pgbouncer.admin_url,
        shard_map.pgbouncer.aliases,
    )
    assert (("./repoint.sh",), "redis://h/0", {"public.users": 60}) == (
        shard_map.on_switch,
        shard_map.cache_url,
        shard_map.cache_ttl,
    )


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


def test_texts_of_any_length_and_declared_integers_of_any_width_agree(tmp_path: Path) -> None:
    """A varchar and a citext follow text, and a declared int8 follows an int4: equal keys read the same."""
    source = catalog(
        table("users", "id citext!", "no int4!", "kind text!", indexes=[index("no")]),
        table("a", "id text!", "user_id varchar!"),
        table("b", "id text!", "user_no int8!"),
        keys=["b(user_no) -> users(no)"],
    )
    text = """\
        tables:
          users: {split_by: kind, homes: {x: pros}}
          a: {follows: {columns: [user_id], references: users, to: [id]}}
          b: {follows: user_no}
        """
    assert len(checked(tmp_path, text, source).tables) == 3


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

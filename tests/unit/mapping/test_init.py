"""What `init` proposes passes the check as it stands, for Fixia's shape and for awkward ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.init import propose
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.mapping.shard_map import (
    Follows,
    OnShard,
    Reference,
    Rule,
    ShardMap,
    Skip,
    SplitByColumn,
    SplitByReference,
    topological,
)
from fixia_shardmig.mapping.yaml_tree import read_tree, scalar_text
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName
from tests.fixtures.fix_catalogs import catalog, fixia_catalog, index, table


def accepted(directory: Path, source: Catalog, *shards: str) -> ShardMap:
    """Propose a mapping, write it, read it back and check it."""
    path = directory / "proposed.yaml"
    path.write_text(propose(source, name="shop", shards=shards or None), "utf-8")
    named = shards or tuple(read_mapping(path, {}, expand_urls=False).shards)
    env = {"PRIMARY_DATABASE_URL": "postgres://h/shop"}
    env |= {
        f"{'SHARD_' if shard[0].isdigit() else ''}{shard.upper()}_DB_URL": f"postgres://h/{shard}" for shard in named
    }
    return check_mapping(read_mapping(path, env), source)


def rules_of(shard_map: ShardMap) -> dict[str, Rule]:
    """Return the rules by the names that a file shows."""
    return {str(name): rule for name, rule in shard_map.tables.items()}


def columns_of(rule: Rule) -> list[str]:
    """Return the columns that a rule follows, in order."""
    assert isinstance(rule, Follows)
    return [name for path in rule.paths for name in path.columns]


def test_fixia_is_split_by_the_users_type(tmp_path: Path) -> None:
    """The table most others point to is split by its enum, and all 38 tables get a rule that fits."""
    shard_map = accepted(tmp_path, fixia_catalog(), "clients", "professionals", "shared")
    rules = rules_of(shard_map)
    homes = {"admin": "shared", "client": "clients", "dual": "shared", "professional": "professionals"}
    assert rules["users"] == SplitByColumn("user_type", homes)
    assert len(rules) == 38
    followed = ["services", "job_milestones", "review_flags", "job_status_updates", "service_views", "phone_reveals"]
    assert [["professional_id"], ["job_id"], ["review_id"], ["job_id"], ["service_id"], ["user_id"]] == [
        columns_of(rules[name]) for name in followed
    ]
    assert [Reference(), Reference(), OnShard("shared"), OnShard("shared")] == [
        rules[name] for name in ("categories", "_prisma_migrations", "contact_messages", "review_templates")
    ]


def test_shards_are_named_after_the_kinds_when_nobody_names_them(tmp_path: Path) -> None:
    """Fixia's first two kinds give clients and professionals; the last shard is shared and keeps the journal."""
    shard_map = accepted(tmp_path, fixia_catalog())
    assert (("clients", "professionals", "shared"), "shared") == (shard_map.shard_names, shard_map.journal_shard)


def test_the_proposal_reads_like_this() -> None:
    """A small shop, word for word: what somebody sees who runs `init`."""
    source = catalog(
        table("users", "id text!", "role enum(seller|buyer)!"),
        table("offers", "id text!", "seller_id text!", "approver_id text!"),
        table("bids", "id text!", "offer_id text", "buyer_id text"),
        table("countries", "id text!", "name text!", rows=200),
        table("cities", "id text!", "country_id text!"),
        table("scratch", "id text!", persistence="u"),
        keys=[
            "offers(seller_id) -> users(id) c",
            "offers(approver_id) -> users(id)",
            "bids(offer_id) -> offers(id) c",
            "bids(buyer_id) -> users(id)",
            "cities(country_id) -> countries(id)",
        ],
    )
    expected = """\
tables:
  # Split: referenced by others, and role tells the kinds apart.
  users:
    split_by: role
    homes:
      seller: sellers
      buyer: buyers

  # Rows that live where the row they reference lives.
  bids: {follows: [buyer_id, offer_id], otherwise: shared}
  offers: {follows: seller_id} # or approver_id
  # Small and referenced by others, or a migration tool's history: on every shard.
  countries: {reference: true}
  # Tables that nothing ties to the split: on the shard of the journal, until somebody knows better.
  cities: {shard: shared}
  # Not moved.
  scratch: {skip: "unlogged: its changes are not in the WAL"}
"""
    text = propose(source, name="shop")
    assert expected == text[text.index("tables:") :]


AWKWARD = {
    "nothing at all": catalog(),
    "no user-like table": catalog(
        table("a", "id text!"), table("b", "id text!", "a_id text!"), keys=["b(a_id) -> a(id)"]
    ),
    "a circle of foreign keys": catalog(
        table("users", "id text!", "org_id text", "kind text!"),
        table("orgs", "id text!", "owner_id text!"),
        table("teams", "id text!", "org_id text!", "lead_id text"),
        keys=[
            "users(org_id) -> orgs(id)",
            "orgs(owner_id) -> users(id)",
            "teams(org_id) -> orgs(id)",
            "teams(lead_id) -> users(id)",
        ],
    ),
    "a circle away from the split": catalog(
        table("users", "id text!", "active bool!"),
        table("a", "id text!", "b_id text!"),
        table("b", "id text!", "a_id text!", "user_id text"),
        keys=["a(b_id) -> b(id)", "b(a_id) -> a(id)", "b(user_id) -> users(id)"],
    ),
    "self-references": catalog(
        table("users", "id text!", "manager_id text", "role text!"),
        table("nodes", "id text!", "parent_id text"),
        table("posts", "id text!", "reply_to text", "user_id text!"),
        keys=[
            "users(manager_id) -> users(id)",
            "nodes(parent_id) -> nodes(id)",
            "posts(reply_to) -> posts(id)",
            "posts(user_id) -> users(id)",
        ],
    ),
    "a kind in another table": catalog(
        table("User", "id int4!", '"roleId" int4!'),
        table("Role", "id int4!", "name text!", rows=5),
        table("Post", "id int4!", '"userId" int4!'),
        keys=["User(roleId) -> Role(id)", "Post(userId) -> User(id)"],
    ),
    "composite and several foreign keys": catalog(
        table(
            "accounts",
            "tenant int4!",
            "id int4!",
            "account_type text",
            "code text!",
            pk="tenant,id",
            indexes=[index("code")],
        ),
        table("plans", "code text!", pk="code"),
        table("items", "id int4!", "tenant int4!", "account int8!", "code text!"),
        table("only_code", "id int4!", "code text!"),
        keys=[
            "items(tenant,account) -> accounts(tenant,id)",
            "items(code) -> accounts(code)",
            "items(code) -> plans(code)",
            "only_code(code) -> plans(code)",
            "only_code(code) -> accounts(code)",
        ],
    ),
    "partitions, children and extensions": catalog(
        table("users", "id text!", "kind enum(a|b)"),
        table("events", "id text!", "user_id text!", kind="p"),
        table("events_1", "id text!", "user_id text!", partition_of="events"),
        table("old_users", "id text!", "kind enum(a|b)", inherits=["users"]),
        table("spatial", "id text!", extension="postgis"),
        keys=["events(user_id) -> users(id)"],
    ),
    "odd names": catalog(
        table('"with.dot"', "id text!", '"user_id" text!'),
        table("sales.User", "id text!", '"user type" enum(true|no|a: b|ü)!'),
        table("null", "id text!"),
        table('"say ""hi"" # now"', "id text!"),
        table("007", "id text!"),
        keys=['"with.dot"(user_id) -> sales.User(id)'],
    ),
    "a generated key and a key of another type": catalog(
        table("users", "id text!", "type enum(a|b)!", "age int4 generated"),
        table("a", "id text!", "user_id text generated"),
        table("b", "id text!", "user_id numeric!"),
        keys=["a(user_id) -> users(id)", "b(user_id) -> users(id)"],
    ),
    "labels that are no names for shards": catalog(table("users", "id text!", "type enum(Ü|é|a)!")),
    "labels of one name": catalog(table("users", "id text!", "type enum(A|a|shared)!")),
    "a large table that others need": catalog(
        table("users", "id text!", "kind text"),
        table("big", "id text!", rows=1e9),
        table("needs_big", "id text!", "big_id text!"),
        keys=["needs_big(big_id) -> big(id)"],
    ),
    "tables without a key": catalog(table("users", "id text!", "kind text", pk=""), table("logs", "line text", pk="")),
}


@pytest.mark.parametrize("shards", [(), ("one",), ("one", "two"), ("1st", "b", "c", "d", "e")])
@pytest.mark.parametrize("source", AWKWARD.values(), ids=AWKWARD.keys())
def test_an_awkward_source_gets_a_mapping_that_passes(tmp_path: Path, source: Catalog, shards: tuple[str, ...]) -> None:
    """Pitfalls 12 and 52: circles are broken, names survive, and every root has exactly one rule."""
    shard_map = accepted(tmp_path, source, *shards)
    assert {root.name for root in source.roots()} == set(shard_map.tables)


def test_a_kind_in_a_small_table_is_split_by_reference(tmp_path: Path) -> None:
    """Pitfall 11: `roleId` leads to Role, which then lives on every shard."""
    rules = rules_of(accepted(tmp_path, AWKWARD["a kind in another table"], "a", "b"))
    role = TableName("public", "Role")
    assert rules["User"] == SplitByReference("roleId", role, "id", "name", {}, "b")
    assert rules["Role"] == Reference()


def test_an_unlogged_table_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """Pitfall 33: its changes never reach the stream."""
    rules = rules_of(accepted(tmp_path, catalog(table("scratch", "id text!", persistence="u")), "a"))
    assert rules["scratch"] == Skip("unlogged: its changes are not in the WAL")


def test_a_table_lives_beside_the_large_one_it_needs(tmp_path: Path) -> None:
    """What is too large for every shard is on one, and what references it too."""
    rules = rules_of(accepted(tmp_path, AWKWARD["a large table that others need"], "a", "b"))
    assert [OnShard("b"), OnShard("b")] == [rules["big"], rules["needs_big"]]


def follows_itself(shard_map: ShardMap, name: TableName) -> bool:
    """Whether one of a table's paths leads to the table."""
    rule = shard_map.tables[name]
    return isinstance(rule, Follows) and any(path.references == name for path in rule.paths)


def test_a_self_reference_is_no_alternative(tmp_path: Path) -> None:
    """Pitfall 12: where all references are nullable they are alternatives, and the one to the own table is not."""
    source = catalog(
        table("users", "id text!", "kind text!"),
        table("posts", "id text!", "reply_to text", "user_id text", "editor_id text"),
        keys=["posts(reply_to) -> posts(id) c", "posts(user_id) -> users(id)", "posts(editor_id) -> users(id)"],
    )
    assert ["editor_id", "user_id"] == columns_of(rules_of(accepted(tmp_path, source, "a", "b"))["posts"])


@st.composite
def sources(draw: st.DrawFn) -> Catalog:
    """Draw tables with any foreign keys between them: circles, repeats, self-references, nullable or not."""
    size = draw(st.integers(1, 8))
    names = [f"t{number}" for number in range(size)]
    if draw(st.booleans()):
        names[0] = "users"
    columns: dict[str, list[str]] = {name: ["id text!", "other text!"] for name in names}
    kinds = st.sampled_from(["kind enum(a|b)!", "kind enum(a|b)", "role text!", "active bool!", "state text"])
    columns[names[0]].append(draw(kinds))
    keys: list[str] = []
    for number in range(draw(st.integers(0, 16))):
        child, parent = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        columns[child].append(
            f"r{number} {draw(st.sampled_from(['text', 'text!', 'varchar', 'int4', 'text generated']))}"
        )
        keys.append(
            f"{child}(r{number}) -> {parent}({draw(st.sampled_from(['id', 'other']))}) {draw(st.sampled_from('acn'))}"
        )
    rows = st.sampled_from([-1.0, 5.0, 1e9])
    tables = [table(name, *columns[name], indexes=[index("other")], rows=draw(rows)) for name in names]
    return catalog(*tables, keys=keys)


@settings(max_examples=300, deadline=None)
@given(source=sources())
def test_whatever_the_foreign_keys_the_proposal_passes(
    tmp_path_factory: pytest.TempPathFactory, source: Catalog
) -> None:
    """Pitfall 12: for any graph of references the proposal is accepted, complete and free of circles."""
    shard_map = accepted(tmp_path_factory.mktemp("proposal"), source, "a", "b")
    assert {root.name for root in source.roots()} == set(shard_map.tables)
    assert len(topological(shard_map.tables)) == len(shard_map.moved())
    assert [] == [name for name in shard_map.tables if follows_itself(shard_map, name)]


@given(st.text())
def test_a_text_survives_yaml(text: str) -> None:
    """Whatever a table is called, the proposal names it exactly."""
    tree = read_tree(f"- {scalar_text(text)}\n- {{{scalar_text(text)}: 1}}", "x")
    assert [text, {text: 1}] == tree.data


@pytest.mark.parametrize(("name", "shards"), [("Shop", None), ("shop", ["a b"]), ("shop", []), ("shop", ["a", "a"])])
def test_a_name_that_no_mapping_may_have_is_refused(name: str, shards: list[str] | None) -> None:
    """The proposal would not pass its own check."""
    with pytest.raises(MappingError):
        propose(catalog(), name=name, shards=shards)

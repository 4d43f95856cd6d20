"""A catalog with one of everything that a rule can trip over, and a mapping that fits it."""

from __future__ import annotations

from fixia_shardmig.model.catalog import Catalog
from tests.fixtures.fix_catalogs import catalog, index, table

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

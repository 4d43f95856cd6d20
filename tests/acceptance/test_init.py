"""From a database to a plan: `init` writes a mapping that only wants the homes of the split's values."""

from __future__ import annotations

import re

from tests.fixtures.fix_program import Shop


def test_the_proposed_mapping_is_planned_after_giving_its_values_homes(shop: Shop) -> None:
    """As printed everything goes to `otherwise`; with homes it is the split that was meant."""
    assert shop.mapping is not None
    mapping, shop.mapping = shop.mapping, None
    shards = ("--shard", "pros", "--shard", "clients")
    proposal = shop.run("init", "--from-url", "SOURCE_URL", "--name", "shop", *shards).expect(0).stdout
    shop.env["PRIMARY_DATABASE_URL"] = shop.urls["source"]
    shop.env["PROS_DB_URL"], shop.env["CLIENTS_DB_URL"] = shop.urls["pros"], shop.urls["clients"]
    shop.mapping = mapping

    mapping.write_text(proposal)
    assert {"pros": 0, "clients": 400} == _homes(shop)
    mapping.write_text(
        proposal.replace("split_by: kind\n", "split_by: kind\n    homes: {pro: pros, client: clients}\n")
    )
    assert {"pros": 200, "clients": 200} == _homes(shop)


def _homes(shop: Shop) -> dict[str, int]:
    tables = {table["table"]: table for table in shop.json("plan")["tables"]}
    homes = tables["users"]["homes"]
    return {shard: homes.get(shard, {"rows": 0})["rows"] for shard in ("pros", "clients")}


def test_init_says_what_is_wrong_with_the_database(shop: Shop) -> None:
    """A server that is not there is exit 75 with the place, without the password."""
    shop.mapping = None
    ended = shop.run("init", "--from-url", re.sub(r":\d+/", ":1/", shop.urls["source"])).expect(75)
    assert "postgres@127.0.0.1:1/" in ended.cause
    assert "run: shardmig init" in ended.hint

"""From a database to a plan: `init` writes a mapping that only wants its shards' names and URLs."""

from __future__ import annotations

import json

from tests.fixtures.fix_program import Shop


def test_the_proposed_mapping_is_planned_after_naming_the_shards(shop: Shop) -> None:
    """What init prints needs the homes of the split's values, and then the plan has no blocker."""
    assert shop.mapping is not None
    mapping, shop.mapping = shop.mapping, None
    shards = ("--shard", "pros", "--shard", "clients")
    ended = shop.run("init", "--from-url", "SOURCE_URL", "--name", "shop", *shards).expect(0)
    assert "#" in ended.stdout
    mapping.write_text(ended.stdout)
    shop.mapping = mapping
    print(ended.stdout)
    print(json.dumps(shop.json("plan"), indent=1))

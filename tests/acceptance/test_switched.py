"""What the commands say once the shards have the writes, and when what follows the switch did not end well."""

from __future__ import annotations

from tests.fixtures.fix_program import SHOP_MAPPING, Shop


def _verified(shop: Shop) -> None:
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)


def test_a_hook_that_fails_is_an_exit_code_and_a_command_that_finishes(shop: Shop) -> None:
    """Switched it is; a script must not take it for done, and the next step does the rest."""
    hook = shop.directory / "repoint.sh"
    hook.write_text("#!/bin/sh\ntest -e ready\n", "utf-8")
    hook.chmod(0o755)
    shop.write_mapping(SHOP_MAPPING + 'hooks: {on_switch: ["./repoint.sh"]}\n')
    _verified(shop)
    found = shop.json("--yes", "cutover", code=1)
    assert (True, "failed", ["shardmig cutover --resume"]) == (found["switched"], found["status"], found["next_steps"])
    (shop.directory / "ready").touch()
    again = shop.json("--yes", "cutover", "--resume")
    steps = ["shardmig tail", "shardmig status"]
    assert ("ok", "", steps) == (again["status"], again["unfinished"], again["next_steps"])


def test_after_the_switch_the_tail_brings_writes_back_and_nobody_misses_the_slot_or_asks_for_the_fence_on_the_shards(
    shop: Shop,
) -> None:
    """The same tail goes on, the other way; the slot on the source is gone; the fence's triggers are the source's."""
    _verified(shop)
    tail = shop.start("-o", "json", "tail").wait_for("following the source")
    shop.run("--yes", "cutover").expect(0)
    tail.wait_for("bringing them back into the source")
    found = shop.json("status", "--exit-code")
    assert ([], None, True) == (found["problems"], found["slot"], found["way_back"]["rollback_possible"])
    assert {"pros": [], "clients": []} == shop.json("schema", "diff")["differences"]
    tail.interrupt()
    assert "shardmig status" in tail.end().expect(130).json["next_steps"]

"""A column that appears on the source while a tail runs: nothing is skipped, and it goes on when the shards have it."""

from __future__ import annotations

from tests.fixtures.fix_faults import follow
from tests.fixtures.fix_program import Shop


def test_a_column_added_under_a_tail_stops_it_until_the_shards_have_it(shop: Shop) -> None:
    """Exit 4 before the first row of the new shape; schema diff names the column, and no value is lost."""
    shop.run("copy").expect(0)
    running = follow(shop)
    shop.sql("source", "alter table users add column city text")
    shop.sql("source", "update users set city = 'Quito' where id <= 10")
    ended = running.end().expect(4)
    assert "definition" in ended.cause
    assert "shardmig schema diff" in ended.hint
    told = shop.run("schema", "diff").expect(3).stdout
    assert "pros: " in told
    assert "city" in told
    for shard in ("pros", "clients"):
        shop.sql(shard, "alter table users add column city text")
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    for shard in ("pros", "clients"):
        assert 5 == shop.one(shard, "select count(*) from users where city = 'Quito'")
    shop.check_nothing_lost()

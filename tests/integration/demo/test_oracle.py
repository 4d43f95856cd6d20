"""The oracle sees each fault that is planted, and sees none where there is none."""

from __future__ import annotations

import pytest

from fixia_shardmig.demo.ledger import Entry, Kind, Touch
from fixia_shardmig.demo.oracle import Finding, Judgement, judge
from fixia_shardmig.model.errors import RefusedError
from tests.fixtures.fix_market import SplitMarket


def verdicts(judgement: Judgement) -> dict[str, list[Finding]]:
    """Give the lists of a judgement that are not empty, by name."""
    names = ("lost", "doubled", "misplaced", "differing", "extra")
    return {name: found for name in names if (found := getattr(judgement, name))}


def some_key(market: SplitMarket, place: str, table: str) -> str:
    """Give the key of a row there."""
    return str(market.run(place, f"select id from {table} order by id limit 1")[0][0])


def copy_row(market: SplitMarket, table: str, key: str, *, from_shard: str, to_shard: str) -> None:
    """Put a row of one shard on another one too."""
    ((row,),) = market.run(from_shard, f"select to_jsonb(t)::text from {table} t where id = %s", key)
    market.run(to_shard, f"insert into {table} select * from jsonb_populate_record(null::{table}, %s)", row)


def test_a_clean_split_is_faultless(split_market: SplitMarket) -> None:
    """Odd values, NULL paths and reference tables included, nothing is found, and every row was judged."""
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {} == verdicts(judgement)
    assert 0 == judgement.undecided
    assert judgement.rows > 8000
    assert judgement.faultless


@pytest.mark.parametrize(
    ("table", "shard"),
    [
        ("users", "clients"),
        ("phone_reveals", "professionals"),
        ("job_milestones", "clients"),
        ("contact_messages", "shared"),
    ],
)
def test_a_lost_row_is_found(split_market: SplitMarket, table: str, shard: str) -> None:
    """Pitfall 56: one row that is gone is named, with the shard where it was to be."""
    key = some_key(split_market, shard, table)
    split_market.run(shard, f"delete from {table} where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"lost": [Finding(table, key, (), shard)]} == verdicts(judgement)


def test_a_doubled_row_is_found(split_market: SplitMarket) -> None:
    """A row on two shards is named with both, even when one of them is right."""
    key = some_key(split_market, "clients", "notifications")
    copy_row(split_market, "notifications", key, from_shard="clients", to_shard="shared")
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"doubled": [Finding("notifications", key, ("clients", "shared"), "clients")]} == verdicts(judgement)


def test_a_row_that_is_twice_on_one_shard_is_doubled(split_market: SplitMarket) -> None:
    """Before keys exist on the targets, a chunk that is copied twice doubles rows on the same shard."""
    key = some_key(split_market, "clients", "user_sessions")
    split_market.run("clients", "alter table user_sessions drop constraint user_sessions_pkey")
    split_market.run("clients", "insert into user_sessions select * from user_sessions where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"doubled": [Finding("user_sessions", key, ("clients", "clients"), "clients")]} == verdicts(judgement)


def test_a_misplaced_row_is_found(split_market: SplitMarket) -> None:
    """A row on one shard only, but the wrong one, is misplaced and not lost."""
    key = some_key(split_market, "professionals", "service_views")
    copy_row(split_market, "service_views", key, from_shard="professionals", to_shard="clients")
    split_market.run("professionals", "delete from service_views where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"misplaced": [Finding("service_views", key, ("clients",), "professionals")]} == verdicts(judgement)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("projects", "gallery_urls = '{NULL}'"),
        ("projects", "gallery_urls = '[0:0]={x}'"),
        ("projects", "title = title || ' '"),
        ("user_activity", "metadata = '{\"n\": 1.0}'"),
    ],
)
def test_a_changed_row_is_found(split_market: SplitMarket, table: str, change: str) -> None:
    """A difference in any column, as small as an array's bound or a trailing space, is named."""
    key = some_key(split_market, "clients", table)
    split_market.run("clients", f"update {table} set {change} where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"differing": [Finding(table, key, ("clients",), "clients")]} == verdicts(judgement)


def test_an_empty_text_is_not_null(split_market: SplitMarket) -> None:
    """NULL on one side and an empty text on the other are different."""
    key = some_key(split_market, "clients", "users")
    split_market.run("source", "update users set social_facebook = null where id = %s", key)
    split_market.run("clients", "update users set social_facebook = '' where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"differing": [Finding("users", key, ("clients",), "clients")]} == verdicts(judgement)


def test_a_row_the_source_never_had_is_extra(split_market: SplitMarket) -> None:
    """A deleted row that came back on a shard is named."""
    key = some_key(split_market, "clients", "user_sessions")
    split_market.run("source", "delete from user_sessions where id = %s", key)
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {"extra": [Finding("user_sessions", key, ("clients",), "nowhere")]} == verdicts(judgement)


def test_a_reference_row_is_wanted_on_every_shard(split_market: SplitMarket) -> None:
    """A category that one shard lacks is lost, and one that differs on one shard differs."""
    lost, changed = (str(row[0]) for row in split_market.run("source", "select id from categories order by id limit 2"))
    split_market.run("clients", "delete from categories where id = %s", lost)
    split_market.run("shared", "update categories set service_count = -1 where id = %s", changed)
    every = ("professionals", "clients", "shared")
    judgement = judge(split_market.source_url, split_market.shard_urls)
    assert {
        "lost": [Finding("categories", lost, ("professionals", "shared"), "every shard")],
        "differing": [Finding("categories", changed, every, "every shard")],
    } == verdicts(judgement)


def test_a_type_change_that_moved_only_the_user_is_found(split_market: SplitMarket) -> None:
    """Pitfall 3: when a client becomes a professional on the source, all that follows is misplaced until it moves."""
    key = str(
        split_market.run(
            "source", "select client_id from jobs j join users u on u.id = client_id where user_type = 'client' limit 1"
        )[0][0]
    )
    split_market.run("source", "update users set user_type = 'professional' where id = %s", key)
    copy_row(split_market, "users", key, from_shard="clients", to_shard="professionals")
    split_market.run("professionals", "update users set user_type = 'professional' where id = %s", key)
    split_market.run("clients", "delete from users where id = %s", key)
    misplaced = judge(split_market.source_url, split_market.shard_urls).misplaced
    assert {"projects", "jobs", "job_milestones", "notifications"} <= {finding.table for finding in misplaced}
    assert {"professionals"} == {finding.expected for finding in misplaced}


def test_an_unknown_table_is_refused(split_market: SplitMarket) -> None:
    """A table the oracle has no rule for is never passed over."""
    split_market.run("source", "create table newcomer (id text primary key)")
    with pytest.raises(RefusedError, match="newcomer"):
        judge(split_market.source_url, split_market.shard_urls)


def test_column_order_does_not_matter(split_market: SplitMarket) -> None:
    """Pitfall 52: a shard whose columns stand in another order is equal."""
    for statement in (
        "alter table reviews add column later integer",
        "update reviews set later = rating",
        "alter table reviews drop column rating",
        "alter table reviews rename column later to rating",
    ):
        split_market.run("professionals", statement)
    assert judge(split_market.source_url, split_market.shard_urls).faultless


def entry(table: str, key: str, kind: Kind, *, certain: bool = True) -> Entry:
    """Make one line of a ledger of the clients' shard."""
    return Entry("clients", Touch(table, key, kind), certain)


def test_the_ledger_excuses_what_it_lists_and_nothing_else(split_market: SplitMarket) -> None:
    """After the switch a changed and a deleted row are right if the ledger has them, and wrong otherwise."""
    changed, deleted = (
        str(row[0]) for row in split_market.run("clients", "select id from user_sessions order by id limit 2")
    )
    split_market.run("clients", "update user_sessions set user_agent = 'new' where id = %s", changed)
    split_market.run("clients", "delete from user_sessions where id = %s", deleted)
    ledger = [
        entry("user_sessions", changed, "update"),
        entry("user_sessions", deleted, "delete"),
    ]
    assert {} == verdicts(judge(split_market.source_url, split_market.shard_urls, ledger=ledger))
    unexcused = judge(split_market.source_url, split_market.shard_urls)
    assert [changed] == [finding.key for finding in unexcused.differing]
    assert [deleted] == [finding.key for finding in unexcused.lost]


def test_a_row_of_the_ledger_that_is_gone_is_lost(split_market: SplitMarket) -> None:
    """A commit that was confirmed after the switch must be on exactly one shard; an uncertain one may be on none."""
    key = "11111111-1111-4111-8111-111111111111"
    urls = split_market.shard_urls
    ledger = [entry("notifications", key, "insert")]
    assert [key] == [finding.key for finding in judge(split_market.source_url, urls, ledger=ledger).lost]
    uncertain = [entry("notifications", key, "insert", certain=False)]
    assert {} == verdicts(judge(split_market.source_url, urls, ledger=uncertain))


def test_a_deleted_row_that_is_back_is_extra(split_market: SplitMarket) -> None:
    """A delete that was confirmed after the switch and did not stay is named."""
    key = some_key(split_market, "clients", "user_sessions")
    ledger = [entry("user_sessions", key, "delete")]
    judgement = judge(split_market.source_url, split_market.shard_urls, ledger=ledger)
    assert {"extra": [Finding("user_sessions", key, ("clients",), "nowhere")]} == verdicts(judgement)

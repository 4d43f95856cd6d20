"""The plan as text and as JSON."""

from __future__ import annotations

import json

from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan import (
    CrossShardReference,
    Estimate,
    Finding,
    Plan,
    Severity,
    ShardShare,
    TablePlan,
    render_text,
)

USERS = TableName.parse("users")
POSTS = TableName.parse("posts")


def plan(*findings: Finding, rows: int | None = 3) -> Plan:
    """Build a plan of two tables."""
    homes = {"a": ShardShare(2, 200), "b": ShardShare(1, 100)}
    return Plan(
        migration="m",
        mapping_fingerprint="1111",
        catalog_fingerprint="2222",
        exact=True,
        shard_names=("a", "b"),
        tables=(
            TablePlan(POSTS, "follows user_id", (USERS,), rows, 300, homes if rows else {}),
            TablePlan(USERS, "split by kind", (), 3, 300, homes),
        ),
        findings=findings,
        cross_shard_references=(CrossShardReference(POSTS, ("by",), USERS, "posts_by", 1, "cascade", "it may part"),),
        kept=(("posts_user_id", POSTS, "it decides"),),
        needed_bytes={"a": 400, "b": 200},
        estimate=Estimate(1.0, 2.0, 0.3),
    )


def test_the_table_of_tables_is_aligned() -> None:
    """Numbers stand under each other, and a table that was not counted shows a question mark."""
    text = render_text(plan(rows=None))
    assert [
        "table  rule              size  rows  a  b",
        "posts  follows user_id  300 B     ?  -  -",
        "users  split by kind    300 B     3  2  1",
        "all                     600 B     3  2  1",
    ] == text.splitlines()[:4]


def test_a_hint_that_several_findings_share_stands_once() -> None:
    """Ten unique indexes do not print ten times the same advice."""
    findings = [Finding("c", Severity.WARNING, f"message {n}", "do this", USERS) for n in (1, 2)]
    text = render_text(plan(*findings))
    assert 1 == text.count("hint: do this")
    assert "  [c] users: message 2\n      hint: do this" in text


def test_blockers_come_with_what_to_do_and_stop_the_next_step() -> None:
    """After a blocker the next command is the plan again."""
    blocked = plan(Finding("c", Severity.BLOCKER, "no", "remove it"))
    assert blocked.has_blockers
    assert render_text(blocked).endswith("1 blockers: the migration may not begin\nnext: shardmig plan\n")
    assert render_text(plan()).endswith("nothing stands in the way\nnext: shardmig copy\n")


def test_the_json_has_the_promised_keys() -> None:
    """Scripts hold on to these names."""
    shown = json.loads(json.dumps(plan(Finding("c", Severity.INFO, "m", table=USERS)).to_json()))
    assert (1, "m", "ready", "1111-2222") == (
        shown["schema_version"],
        shown["migration"],
        shown["status"],
        shown["fingerprint"],
    )
    assert ["shardmig copy"] == shown["next_steps"]
    assert {
        "table": "posts",
        "rule": "follows user_id",
        "follows": ["users"],
        "rows": 3,
        "bytes": 300,
        "undecided": 0,
        "homes": {"a": {"rows": 2, "bytes": 200}, "b": {"rows": 1, "bytes": 100}},
    } == shown["tables"][0]
    assert {"code": "c", "severity": "info", "table": "users", "message": "m", "hint": ""} == shown["findings"][0]
    assert {"table", "columns", "references", "constraint", "rows"} <= set(shown["cross_shard_references"][0])
    assert {"copy_s": 1.0, "verify_s": 2.0, "pause_s": 0.3} == shown["estimate"]

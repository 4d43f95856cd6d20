"""`shardmig verify` as scripts see it: what its exit codes mean, and that none of them means two things."""

from __future__ import annotations

from tests.fixtures.fix_program import Shop


def test_equal_different_and_could_not_say_have_a_code_each(shop: Shop) -> None:
    """0 only when all was compared and is equal, 3 only for differences, 75 and 2 when nothing can be said."""
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    equal = shop.json("verify", "--jobs", "3", "--rate", "100MB/s", "--max-snapshot-age", "1h")
    assert ("ok", True) == (equal["status"], equal["equal"])
    assert {equal["at_lsn"]} == {table["at_lsn"] for table in equal["tables"]}

    shop.sql("pros", "set session_replication_role = replica; delete from orders")
    lost = shop.one("pros", "select count(*) from orders")
    assert 0 == lost
    different = shop.json("verify", code=3)
    assert ("differences", ["shardmig verify --repair --dry-run"]) == (different["status"], different["next_steps"])
    planned = shop.json("verify", "--repair", "--dry-run", code=3)
    assert (True, different["differences_total"]) == (planned["repair"]["dry_run"], planned["repair"]["found"])
    again = shop.start("-o", "jsonl", "verify", "--every", "100ms")
    again.wait_until(lambda: again.stdout.count("\n") >= 2, what="a second round").terminate()
    assert 3 == again.end().code

    for wrong in (("--dry-run",), ("--repair", "--every", "1m"), ("--table", "nothing"), ("--rate", "fast")):
        shop.run("verify", *wrong).expect(2)
    shop.run("verify", "--rate", "1kB/s").expect(4)
    url = shop.urls["clients"]
    shop.point("clients", url.rsplit(":", 1)[0] + ":1/" + url.rsplit("/", 1)[1])
    shop.run("verify").expect(75)
    shop.point("clients", url)

    repaired = shop.json("verify", "--repair")
    assert (True, False) == (repaired["equal"], repaired["repair"]["dry_run"])
    shop.check_nothing_lost()

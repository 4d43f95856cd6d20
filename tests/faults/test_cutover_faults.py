"""What happens outside the program in a cutover and a rollback: dead servers, other operators, others' hands.

Each is met within one migration, one after the other; nothing is lost, and the command that is printed goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import psycopg
import pytest

from fixia_shardmig.cutover import rollback as rollback_room
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.switching import cut_over, roll_back
from tests.fixtures.fix_program import Shop

PAUSE_S = 20.0
SHORT_PAUSE_S = 3.0
WRITE = "insert into orders (user_id, what) values (1, 'a write') returning id"
"""User 1 is a client, user 2 a pro."""

WRITE_PRO = "insert into orders (user_id, what) values (2, 'a write') returning id"
ORDERS = "select count(*) from orders"


def _verified(shop: Shop) -> Context:
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    assert shop.mapping is not None
    return load(shop.mapping, env=shop.env)


def _phase(context: Context) -> Phase:
    with context.journal() as journal:
        return journal.get().phase


def _refused_with(shop: Shop, place: str) -> str | None:
    """Return the SQLSTATE with which a write is refused, or None if it is not."""
    try:
        shop.sql(place, WRITE_PRO)
    except psycopg.Error as error:
        return error.sqlstate
    return None


@pytest.mark.timeout(120)
def test_servers_that_die_in_a_cutover_leave_the_source_the_writer(
    make_shop: Callable[..., Shop], new_cluster: Callable[..., Cluster]
) -> None:
    """Pitfalls 63, 64, 72. The source is crashed behind its fence, then a shard is; a second operator is sent away."""
    source, pros = new_cluster(), new_cluster()
    shop = make_shop(source=source, pros=pros)
    context = _verified(shop)
    with pytest.raises(TemporaryError, match="lifting the fence failed") as left:
        cut_over(context, max_pause_s=PAUSE_S, on_drained=source.kill)
    source.start()
    assert ("shardmig cutover --resume", "SM001") == (left.value.hint, _refused_with(shop, "source"))
    shop.run("--yes", "cutover", "--resume").expect(4)
    assert (None, Phase.TAILING) == (_refused_with(shop, "source"), _phase(context))
    with pytest.raises(ShardmigError, match="the fence is lifted, the source takes writes"):
        cut_over(context, max_pause_s=PAUSE_S, on_drained=pros.kill)
    assert (None, Phase.TAILING) == (_refused_with(shop, "source"), _phase(context))
    pros.start()
    with context.journal() as journal, journal.holding("operator"):
        for command in ("cutover", "cutover --resume", "finalize"):
            assert "is working on migration 'shop'" in shop.run("--yes", *command.split()).expect(5).cause
    shop.run("tail", "--until", "caught-up").expect(0)
    result = cut_over(context, max_pause_s=PAUSE_S)
    assert (True, "", "SM002") == (result.switched, result.unfinished, _refused_with(shop, "source"))
    shop.check_nothing_lost()


def _closed(context: Context) -> dict[str, str]:
    result = roll_back(context, dry_run=True, max_pause_s=PAUSE_S)
    return {gate.name: gate.detail for gate in result.gates if not gate.ok}


def _fencing_behind_a_lock(shop: Shop, held: list[Any]) -> Callable[..., None]:
    """Raise the shards' fences as the rollback does, but have somebody hold the source's books before."""
    fence = rollback_room._fence

    def fence_behind(*given: Any) -> None:
        held.append(psycopg.connect(shop.urls["source"]))
        held[0].execute("select from shardmig.position for update")
        fence(*given)

    return fence_behind


@pytest.mark.timeout(120)
def test_what_is_in_the_way_of_a_rollback_is_said_and_the_shards_write_on(
    make_shop: Callable[..., Shop], new_cluster: Callable[..., Cluster]
) -> None:
    """Pitfalls 29, 59, 63, 72. Others' hands close gates, a late drain and a dead shard undo it; then it is made."""
    pros = new_cluster(settings={"max_prepared_transactions": "5"})
    shop = make_shop(pros=pros)
    context = _verified(shop)
    assert cut_over(context, max_pause_s=PAUSE_S).switched
    shop.sql("source", "alter table users disable trigger shardmig_fence")
    shop.sql("pros", "create table later (id int primary key)")
    with psycopg.connect(shop.urls["pros"]) as connection:
        connection.execute(WRITE_PRO)
        connection.execute("prepare transaction 'left over'")
        connection.commit()
    closed = _closed(context)
    assert {"prepared_transactions", "new_tables", "source_fence"} <= closed.keys()
    assert ("pros: later", True) == (closed["new_tables"], "left over" in closed["prepared_transactions"])
    shop.sql("source", "alter table users enable always trigger shardmig_fence")
    shop.sql("pros", "drop table later")
    with psycopg.connect(shop.urls["pros"], autocommit=True) as connection:
        connection.execute("commit prepared 'left over'")
    assert {} == _closed(context)

    held: list[Any] = []
    with (
        mock.patch.object(rollback_room, "_fence", _fencing_behind_a_lock(shop, held)),
        pytest.raises(RefusedError, match=r"the pause of 3 s was over waiting for .*the shards take writes"),
    ):
        roll_back(context, max_pause_s=SHORT_PAUSE_S)
    held[0].close()
    assert (Phase.SWITCHED, None, "SM002") == (
        _phase(context),
        _refused_with(shop, "pros"),
        _refused_with(shop, "source"),
    )

    with pytest.raises(TemporaryError, match="lifting the shards' fences failed"):
        roll_back(context, max_pause_s=PAUSE_S, on_drained=pros.kill)
    assert "SM001" != _refused_with(shop, "clients")
    pros.start()
    assert Phase.ROLLING_BACK is _phase(context)
    shop.run("--yes", "rollback", "--resume").expect(4)
    assert (Phase.SWITCHED, None) == (_phase(context), _refused_with(shop, "pros"))
    shop.sql("clients", WRITE)
    result = roll_back(context, max_pause_s=PAUSE_S)
    assert (True, "", "SM002", None) == (
        result.switched,
        result.unfinished,
        _refused_with(shop, "pros"),
        _refused_with(shop, "source"),
    )
    assert 2000 + 5 == shop.one("source", ORDERS)

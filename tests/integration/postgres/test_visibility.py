"""The program's answer and the server's are the same for any snapshot and transaction id."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.postgres.sessions import Connection, scalar, session
from fixia_shardmig.postgres.visibility import is_visible

EPOCH = 1 << 32
REACH = 1 << 31
"""How far a transaction that is still of interest may be from the snapshot: half of what 32 bits tell apart."""

FIRST_NORMAL = 3
"""The ids below it are the server's own, in every epoch; it takes a snapshot with 0 for damaged."""


@pytest.fixture(scope="module")
def connection(source_cluster: Cluster) -> Iterator[Connection]:
    """Give a session on a server."""
    source_cluster.start()
    url = source_cluster.create_database("visibility")
    with session(url, "test") as opened:
        yield opened
    source_cluster.drop_database("visibility")


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, str]:
    """Draw a 64-bit id and a snapshot, often near a wraparound and near each other."""
    near = draw(st.sampled_from([3, EPOCH, EPOCH + REACH, 7 * EPOCH]) | st.integers(3, 1 << 62))
    xmin = max(3, near + draw(st.integers(-20, 20)))
    xmax = xmin + draw(st.integers(0, 40) | st.integers(0, REACH - 1))
    running = draw(st.lists(st.integers(xmin, min(xmax - 1, xmin + 60)), unique=True)) if xmax > xmin else []
    nearby = st.integers(xmin - 5, xmax + 5) | st.integers(xmax - REACH, xmax + REACH - 1)
    xid = draw((nearby | st.sampled_from(running)) if running else nearby)
    assume(-REACH <= xid - xmax < REACH)
    assume(all(one > 0 and one % EPOCH >= FIRST_NORMAL for one in (xmin, xmax, xid, *running)))
    return xid, f"{xmin}:{xmax}:{','.join(map(str, sorted(running)))}"


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_server_says_the_same(connection: Connection, case: tuple[int, str]) -> None:
    """Pitfall 44: pg_visible_in_snapshot has all 64 bits, we have 32 of them."""
    xid, snapshot = case
    query = "SELECT pg_visible_in_snapshot(%s::text::xid8, %s::pg_snapshot)"
    assert scalar(connection, query, (str(xid), snapshot)) is is_visible(xid % EPOCH, snapshot)


def test_a_real_snapshot_sees_what_committed_and_not_what_runs(source_url: str) -> None:
    """Pitfall 44: two transactions overlap, the later one commits first."""
    number = "SELECT pg_current_xact_id()::text::int8 % 4294967296"
    with (
        psycopg.connect(source_url) as first,
        psycopg.connect(source_url) as second,
        session(source_url, "test") as third,
    ):
        running, committed = (int(str(scalar(one, number))) for one in (first, second))
        second.commit()
        before = scalar(third, "SELECT pg_current_snapshot()::text")
        first.commit()
        after = scalar(third, "SELECT pg_current_snapshot()::text")
    assert (running < committed, False, True) == (True, is_visible(running, before), is_visible(committed, before))
    assert is_visible(running, after)

"""A table that gets another file in the middle of a copy: rows that nobody touched lie in other blocks from then on."""

from __future__ import annotations

from typing import LiteralString

import pytest

from fixia_shardmig.model.places import VARIABLE
from tests.fixtures.fix_program import Shop

COPY = "copy --resume --jobs 1 --chunk-bytes 16KiB"
SPARSE = "delete from orders where id % 4 > 0"
REWRITES: tuple[LiteralString, ...] = (
    "vacuum full orders",
    "cluster orders using orders_pkey",
    "alter table orders alter what type text using what || ''",
)
SEVERAL_CHUNKS = "copy.chunk_done:10"


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda statement: statement.split()[0])
def test_a_table_that_is_rewritten_between_two_snapshots_is_read_again(shop: Shop, rewrite: LiteralString) -> None:
    """Pitfall 30: what moved into blocks that had been copied is in no change of the stream, and is not lost."""
    shop.sql("source", SPARSE)
    killed = shop.start(*COPY.split(), env={VARIABLE: SEVERAL_CHUNKS}).end()
    assert -9 == killed.code
    shop.sql("source", rewrite)
    shop.run(*COPY.split()).expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()
    told = shop.sql("clients", "select detail->>'table' from shardmig.event where event = 'table_rewritten'")
    assert [("orders",)] == told

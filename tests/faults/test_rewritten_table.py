"""A table that gets another file in the middle of a copy: rows that nobody touched lie in other blocks from then on."""

from __future__ import annotations

from typing import LiteralString

import pytest

from fixia_shardmig.model.places import VARIABLE
from tests.fixtures.fix_faults import copy_held_at, holding
from tests.fixtures.fix_program import Shop

COPY = "copy --resume --jobs 1 --chunk-bytes 16KiB"
SPARSE = "delete from orders where id % 4 > 0"
REWRITES: tuple[LiteralString, ...] = (
    "vacuum full orders",
    "cluster orders using orders_pkey",
    "alter table orders alter what type text using what || ''",
)
SEVERAL_CHUNKS = "copy.chunk_done:10"


SETTINGS: LiteralString = "select * from settings order by id"


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda statement: statement.split()[0])
def test_a_table_that_is_rewritten_between_two_snapshots_is_read_again(shop: Shop, rewrite: LiteralString) -> None:
    """Pitfall 30: what moved into blocks that had been copied is in no change of the stream, and is not lost."""
    _die_in_the_middle(shop)
    shop.sql("source", rewrite)
    _ends_well(shop)
    assert [("table_rewritten", "orders")] == _told(shop)


def test_a_small_table_that_is_rewritten_before_it_is_read_is_read_again(shop: Shop) -> None:
    """Pitfall 30: to the snapshot that was open, an ALTER TABLE has left an empty table, and the stream has nothing."""
    shop.run("schema", "apply").expect(0)
    with holding(shop.urls["pros"], "orders"):
        held = copy_held_at(shop, "--jobs", "1")
        shop.sql("source", "alter table settings alter value type text using value || ''")
    held.end().expect(0)
    _ends_well(shop)
    assert [("table_rewritten", "settings")] == _told(shop)
    assert [10] * 3 == [len(shop.sql(place, SETTINGS)) for place in shop.urls]
    assert 1 == len({str(shop.sql(place, SETTINGS)) for place in shop.urls})


def test_a_journal_that_knows_no_files_has_what_was_copied_read_again(shop: Shop) -> None:
    """Pitfall 30: one begun by an earlier version goes on; what may have been rewritten since is not believed."""
    _die_in_the_middle(shop)
    shop.sql("clients", "drop table shardmig.table_file")
    shop.sql("source", REWRITES[0])
    _ends_well(shop)
    assert [("table_file_unknown", "orders")] == _told(shop)


def _die_in_the_middle(shop: Shop) -> None:
    shop.sql("source", SPARSE)
    killed = shop.start(*COPY.split(), env={VARIABLE: SEVERAL_CHUNKS}).end()
    assert -9 == killed.code


def _ends_well(shop: Shop) -> None:
    shop.run(*COPY.split()).expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()


def _told(shop: Shop) -> list[tuple[str, str]]:
    return shop.sql("clients", "select event, detail->>'table' from shardmig.event where event like 'table%'")

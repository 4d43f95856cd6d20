"""The marketplace's rows without a server: the same for one seed, unique where they must be, whole in themselves."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from fixia_shardmig.demo.generator import SCHEMA_FILE
from fixia_shardmig.demo.marketplace import Marketplace
from fixia_shardmig.demo.odd_values import ODD_JSON, TOAST_BYTES, Values

SCHEMA = SCHEMA_FILE.read_text(encoding="utf-8")


def rows_of(users: int, seed: int) -> dict[str, list[dict[str, object]]]:
    """Make a whole marketplace in memory."""
    return {table: list(rows) for table, rows in Marketplace(Values(seed), users=users).tables()}


@pytest.fixture(scope="module")
def market() -> dict[str, list[dict[str, object]]]:
    """Give a marketplace of 200 users, only read by the tests here."""
    return rows_of(200, seed=11)


def test_a_seed_decides_every_row() -> None:
    """Two runs agree row for row, and another seed does not."""
    assert rows_of(20, seed=2) == rows_of(20, seed=2)
    assert rows_of(20, seed=2) != rows_of(20, seed=3)


def test_every_table_of_the_schema_is_made(market: dict[str, list[dict[str, object]]]) -> None:
    """All but Prisma's own record, which the schema brings along."""
    tables = set(re.findall(r'CREATE TABLE "(\w+)"', SCHEMA))
    assert tables - {"_prisma_migrations"} == set(market)


def test_every_column_is_filled_and_rows_of_a_table_agree_on_them(market: dict[str, list[dict[str, object]]]) -> None:
    """COPY takes the columns from the first row, so the order must be the same in all."""
    for table, rows in market.items():
        body = re.search(rf'CREATE TABLE "{table}" \((.*?)\n\);', SCHEMA, re.DOTALL)
        assert body is not None
        columns = set(re.findall(r'^    "(\w+)"', body.group(1), re.MULTILINE))
        assert {tuple(rows[0])} == {tuple(row) for row in rows}, table
        assert columns == set(rows[0]), table


def test_foreign_keys_hold(market: dict[str, list[dict[str, object]]]) -> None:
    """Each reference that is not NULL points to a row that was made."""
    keys = {table: {row["id"] for row in rows} for table, rows in market.items()}
    declared = re.findall(
        r'ALTER TABLE "(\w+)" ADD CONSTRAINT \S+\s+FOREIGN KEY \("(\w+)"\) REFERENCES "(\w+)"', SCHEMA
    )
    assert len(declared) == 79
    for table, column, parent in declared:
        assert {row[column] for row in market[table]} - {None} <= keys[parent], (table, column)


def test_the_mix_of_users_is_the_real_one(market: dict[str, list[dict[str, object]]]) -> None:
    """60 % clients, 30 % professionals, 9 % dual and 1 % admins, give or take the first four."""
    kinds = Counter(row["user_type"] for row in market["users"])
    for kind, share in {"client": 120, "professional": 60, "dual": 18, "admin": 2}.items():
        assert abs(kinds[kind] - share) <= 3


def test_a_few_professionals_have_most_of_the_work(market: dict[str, list[dict[str, object]]]) -> None:
    """A tenth of the professionals made more than a third of the proposals: shards and caches see real skew."""
    by_professional = Counter(row["professional_id"] for row in market["proposals"])
    busiest = sum(count for _, count in by_professional.most_common(8))
    assert busiest > sum(by_professional.values()) / 3


def test_fewer_than_four_users_are_refused() -> None:
    """Below one user of each type the rest cannot be made."""
    with pytest.raises(ValueError, match="at least 4"):
        Marketplace(Values(1), users=3)


def test_odd_values_come_in_turn() -> None:
    """Even a short run has each odd value, since they are not left to chance."""
    values = Values(1)
    drawn = {values.json() for _ in range(2000)}
    assert set(ODD_JSON) <= drawn


def test_bulk_is_long_enough_for_toast() -> None:
    """TOAST begins at about 2,000 bytes."""
    lengths = [len(Values(seed).bulk()) for seed in range(20)]
    assert min(lengths) > 2_000
    assert max(lengths) <= TOAST_BYTES[1]

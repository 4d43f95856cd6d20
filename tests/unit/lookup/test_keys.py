"""Keys of applications as texts."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from uuid import UUID

import pytest

from fixia_shardmig.lookup.keys import check_parts, key_texts
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName


class Kind(Enum):
    """An application's enum."""

    PRO = "professional"


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("a,b", ("a,b",)),
        (42, ("42",)),
        (True, ("true",)),
        (b"\x00\xff", ("\\x00ff",)),
        (Kind.PRO, ("professional",)),
        (Decimal("1.10"), ("1.10",)),
        (UUID(int=1), ("00000000-0000-0000-0000-000000000001",)),
        ((1, "x"), ("1", "x")),
    ],
)
def test_a_key_has_one_text_form(key: object, texts: tuple[str, ...]) -> None:
    """What PostgreSQL reads as the same value; 42 and "42" are one row."""
    assert texts == key_texts(key)


@pytest.mark.parametrize("key", [None, (1, None), (), "a\0b", "\ud800"])
def test_what_can_be_no_key_is_refused(key: object) -> None:
    """NULL, nothing, and texts that no database can hold."""
    with pytest.raises(MappingError) as caught:
        key_texts(key)
    assert caught.value.hint


def test_a_table_without_a_primary_key_is_refused() -> None:
    """Rows are found by it alone."""
    with pytest.raises(MappingError, match="logs has no primary key"):
        check_parts(TableName("public", "logs"), (), ("1",))

"""Whether a snapshot sees a 32-bit transaction id, by hand; the server's own answer is in tests/integration."""

from __future__ import annotations

import pytest

from fixia_shardmig.postgres.visibility import is_visible

EPOCH = 1 << 32


@pytest.mark.parametrize(
    ("xid", "snapshot", "expected"),
    [
        (99, "100:110:103,105", True),
        (100, "100:110:103,105", True),
        (103, "100:110:103,105", False),
        (104, "100:110:103,105", True),
        (10, "100:110:103,105", True),
        (110, "100:110:103,105", False),
        (111, "100:110:103,105", False),
        (100, "100:100:", False),
        (99, "100:100:", True),
    ],
)
def test_a_snapshot_sees_what_had_ended(xid: int, snapshot: str, expected: bool) -> None:  # noqa: FBT001  a table's column
    """Pitfall 44: below xmin all, from xmax on none, in between all but those that ran; 10 is not a piece of 103."""
    assert expected is is_visible(xid, snapshot)


@pytest.mark.parametrize(
    ("xid", "snapshot", "expected"),
    [
        (EPOCH - 1, f"{EPOCH + 5}:{EPOCH + 9}:", True),
        (5, f"{EPOCH - 9}:{EPOCH - 3}:", False),
        (5, f"{EPOCH - 9}:{EPOCH + 7}:{EPOCH + 5}", False),
        (EPOCH - 9, f"{EPOCH - 9}:{EPOCH + 7}:{EPOCH - 9}", False),
        (6, f"{EPOCH - 9}:{EPOCH + 7}:{EPOCH + 5}", True),
        (3, f"{5 * EPOCH + 3}:{5 * EPOCH + 4}:", True),
    ],
)
def test_an_id_belongs_to_the_epoch_nearest_to_the_snapshot(xid: int, snapshot: str, expected: bool) -> None:  # noqa: FBT001  a table's column
    """Pitfall 44: the stream's ids are 32 bits, so 5 comes after 4294967295 and a snapshot may stand on both sides."""
    assert expected is is_visible(xid, snapshot)

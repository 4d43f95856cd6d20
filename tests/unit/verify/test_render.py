"""What a reader sees of a comparison."""

from __future__ import annotations

import json

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.model.names import TableName
from fixia_shardmig.verify.comparison import Difference
from fixia_shardmig.verify.render import SHOWN_MAX, render_text
from fixia_shardmig.verify.result import ObjectResult, ReferenceResult, SequenceResult, TableResult, VerifyResult

T = TableName.parse("users")
AT = LSN.parse("1/2A")


def _result(*differences: Difference, total: int | None = None, dangling: tuple[int, int] = (0, 0)) -> VerifyResult:
    return VerifyResult(
        at_lsn=AT,
        hash_form="hashtextextended",
        tables=(
            TableResult(T, "clients", 12_345, 12_344, equal=not differences, differences={}, seconds=1.25, at_lsn=AT),
        ),
        differences=differences,
        differences_total=len(differences) if total is None else total,
        references=(ReferenceResult(T, ("boss",), T, "", *dangling, implied=False),),
        sequences=(SequenceResult(T, T, "id", "clients", 1, 9, ready=False),),
        objects=(ObjectResult(T, "clients", ("users_name",), ()),),
        seconds=2.0,
    )


def test_equal_sides_are_said_in_one_sentence() -> None:
    """What was compared, where, at which LSN, how, and with what outcome."""
    last = render_text(_result()).splitlines()[-1]
    expected = (
        "compared every column of 12,344 rows in 1 table on 1 shard with the source at LSN 1/2A by hashtextextended "
        "in 2.0 s: equal"
    )
    assert expected == last


def test_each_kind_has_its_sign() -> None:
    """Key, changed columns, home and number of copies stand on one line."""
    text = render_text(
        _result(
            Difference(T, "clients", {"id": "1"}, "missing"),
            Difference(T, "shared", {"id": "2", "part": None}, "misplaced", columns=("name",), home="clients"),
            Difference(T, "shared", {"row": "{}"}, "duplicated", home="shared", copies=1000),
        )
    )
    assert "\n- clients  users  id=1\n" in text
    assert "\n> shared  users  id=2, part=NULL  columns: name  home: clients\n" in text
    assert "\n* shared  users  row={}  1,000 times\n" in text
    assert "not equal: 3 differences" in text


def test_more_than_a_screen_is_counted() -> None:
    """The rest is a number."""
    many = [Difference(T, "clients", {"id": str(n)}, "extra") for n in range(SHOWN_MAX + 1)]
    text = render_text(_result(*many, total=5000))
    assert SHOWN_MAX == text.count("\n+ ")
    assert f"… and {5000 - SHOWN_MAX:,} more" in text


def test_a_reference_that_dangles_elsewhere_makes_the_sides_unequal() -> None:
    """The number on the shards is held against the source's."""
    assert _result(dangling=(2, 2)).equal
    result = _result(dangling=(2, 3))
    assert not result.equal
    assert "users (boss) -> users: 2 on the source, 3 on the shards, DIFFERS" in render_text(result)


def test_the_json_is_plain_values() -> None:
    """Nothing in it needs an encoder of ours."""
    shown = json.loads(json.dumps(_result(Difference(T, "clients", {"id": "1"}, "missing")).to_json()))
    assert {"at_lsn", "equal", "tables", "differences", "references", "seconds"} <= set(shown)
    assert {"table": "users", "shard": "clients", "key": {"id": "1"}, "kind": "missing", "copies": 1} == shown[
        "differences"
    ][0]

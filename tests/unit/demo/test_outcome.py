"""The demo's verdict."""

from __future__ import annotations

import pytest

from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.demo.story import Outcome
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.verify.result import VerifyResult

EQUAL = VerifyResult(LSN(1), "canonical", (), (), 0, (), (), (), 0.0)
SWITCHED = CutoverResult(switched=True, pause_ms=1.0, steps=())


@pytest.mark.parametrize(("errors", "good"), [({}, True), ({"SM001": 9}, True), ({"misrouted": 1}, False)])
def test_one_misrouted_user_spoils_the_demo(errors: dict[str, int], good: bool) -> None:  # noqa: FBT001
    """Writers that meet the fence are as it should be; a router that is wrong once is not."""
    outcome = Outcome(verify=EQUAL, after=EQUAL, back=EQUAL, cutover=SWITCHED, rollback=SWITCHED, writer_errors=errors)
    assert good is outcome.good
    assert errors.get("misrouted", 0) == outcome.to_json()["misrouted"]

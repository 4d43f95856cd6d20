"""What several files about the tail share."""

from __future__ import annotations

import pytest

from fixia_shardmig.tail import kernel


@pytest.fixture(params=[True, False], ids=["compiled", "general"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have plain changes go the compiled way, and everything the general one."""
    monkeypatch.setattr(kernel, "IS_COMPILED", kernel.IS_COMPILED and request.param)

"""Finding a pg_dump."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.schema.pg_dump import find_pg_dump


def fake(directory: Path, major: int) -> Path:
    """Write a program that answers `--version` as pg_dump does."""
    program = directory / "pg_dump"
    directory.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {major}.3 (Debian {major}.3-1)'\n")
    program.chmod(0o755)
    return program


def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, path: Path | None = None) -> None:
    """Leave nothing on this machine but a Debian root under tmp_path and a PATH."""
    monkeypatch.delenv("SHARDMIG_PG_BIN", raising=False)
    monkeypatch.setenv("PATH", f"{path or '/nonexistent'}:/bin")
    monkeypatch.setattr("fixia_shardmig.schema.pg_dump.DEBIAN_ROOT", tmp_path / "postgresql")
    monkeypatch.setattr("fixia_shardmig.schema.pg_dump._WHEELS", {})


def test_the_newest_that_can_read_the_source_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of PATH and Debian's directories, the newest version wins."""
    only(monkeypatch, tmp_path, path=tmp_path / "bin")
    fake(tmp_path / "bin", 15)
    newest = fake(tmp_path / "postgresql" / "17" / "bin", 17)
    assert newest == find_pg_dump(15)


def test_an_older_one_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names what was found and the hint what is missing."""
    only(monkeypatch, tmp_path, path=tmp_path / "bin")
    old = fake(tmp_path / "bin", 15)
    with pytest.raises(RefusedError, match=r"needs pg_dump 18 or newer") as caught:
        find_pg_dump(18)
    assert f"{old} (15)" in caught.value.message
    assert "postgresql-client-18" in caught.value.hint


def test_the_named_directory_decides_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SHARDMIG_PG_BIN is an order, not a suggestion: nothing else is tried."""
    only(monkeypatch, tmp_path, path=tmp_path / "bin")
    fake(tmp_path / "bin", 18)
    named = fake(tmp_path / "named", 16)
    monkeypatch.setenv("SHARDMIG_PG_BIN", str(tmp_path / "named"))
    assert named == find_pg_dump(16)
    with pytest.raises(RefusedError):
        find_pg_dump(17)

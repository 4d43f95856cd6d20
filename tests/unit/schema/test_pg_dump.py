"""Finding a pg_dump."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.model.errors import RefusedError, TemporaryError
from fixia_shardmig.schema.pg_dump import dump_ddl, find_pg_dump


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


def test_no_secret_is_an_argument(tmp_path: Path) -> None:
    """What `ps` shows of pg_dump holds neither the password nor the key's passphrase; both still reach it."""
    program = tmp_path / "pg_dump"
    program.write_text('#!/bin/sh\necho "$@"; echo "env $PGPASSWORD"; cat "$PGSERVICEFILE"\n')
    program.chmod(0o755)
    output = dump_ddl("postgresql://u:s3cret@h/d?sslpassword=k3y", program, "00000003-1")
    arguments, environment, *service = output.splitlines()
    assert [False, False] == [secret in arguments for secret in ("s3cret", "k3y")]
    assert "service=shardmig" in arguments
    assert environment == "env s3cret"
    assert ["[shardmig]", "sslpassword=k3y"] == service


def test_a_second_secret_beside_a_service_is_refused(tmp_path: Path) -> None:
    """A service file cannot hold another service."""
    with pytest.raises(RefusedError, match="sslpassword stands in a URL that names a service") as caught:
        dump_ddl("postgresql://u@h/d?sslpassword=k3y&service=main", tmp_path / "pg_dump", "1")
    assert "k3y" not in str(caught.value)


def test_one_that_is_killed_is_worth_another_try(tmp_path: Path) -> None:
    """Whoever killed it, nothing is said of the role's privileges, and the same command goes on."""
    killed = tmp_path / "pg_dump"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    with pytest.raises(TemporaryError, match="pg_dump was killed by signal 9") as caught:
        dump_ddl("postgresql://user@host/shop", killed, "snapshot")
    assert "run the same command again" == caught.value.hint

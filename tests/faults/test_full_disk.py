"""A shard's disk is full in the middle of copy and tail: exit 75, nothing lost, and with room it goes on."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from fixia_shardmig.demo.clusters import Cluster
from tests.fixtures.fix_program import Shop

DISK = "size=24m"
SPARE_BYTES = 192 * 1024
FILLER_BLOCK = b"\0" * 65536


class SmallDisk:
    """A file system of a few megabytes that holds a shard's database, and a file that takes the rest of it."""

    def __init__(self, directory: Path) -> None:
        """Name the place; it is mounted already."""
        self.directory = directory
        self._filler = directory / "filler"

    def fill(self, *, but: int = 0) -> None:
        """Leave only so many bytes."""
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(FILLER_BLOCK)
            except OSError:
                file.truncate(max(0, file.tell() - but))

    def make_room(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def small_disk(servers_directory: Path, target_cluster: Cluster) -> Iterator[SmallDisk]:
    """Mount a tmpfs for a tablespace of the shards' server, where its user may go; needs the right to mount."""
    directory = Path(tempfile.mkdtemp(prefix="small-", dir=servers_directory))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", DISK, "shardmig-test", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode and os.geteuid() and not os.environ.get("CI"):
        pytest.skip("needs the right to mount a file system")
    assert mounted.returncode == 0, mounted.stderr
    try:
        owner = target_cluster.data_directory.stat()
        place = directory / "tablespace"
        place.mkdir()
        os.chown(place, owner.st_uid, owner.st_gid)
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def cramped_shop(make_shop: Callable[..., Shop], target_cluster: Cluster, small_disk: SmallDisk) -> Iterator[Shop]:
    """Give a shop whose shard pros lives on the small disk."""
    shop = make_shop()
    name = conninfo_to_dict(shop.urls["pros"])["dbname"]
    space = sql.Identifier(f"small_{name}")
    location = sql.Literal(str(small_disk.directory / "tablespace"))
    with psycopg.connect(target_cluster.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("create tablespace {} location {}").format(space, location))
        connection.execute(sql.SQL("alter database {} set tablespace {}").format(sql.Identifier(str(name)), space))
        yield shop
        small_disk.make_room()
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name))))
        connection.execute(sql.SQL("drop tablespace {}").format(space))


def test_a_full_disk_under_a_copy_is_named_and_the_copy_goes_on_with_room(
    cramped_shop: Shop, small_disk: SmallDisk
) -> None:
    """The hint says to make room; what fitted stays, what did not was rolled back."""
    shop = cramped_shop
    shop.sql("source", "insert into orders (user_id, what) select 2, repeat('big ', 500) from generate_series(1, 9000)")
    shop.run("schema", "apply").expect(0)
    small_disk.fill(but=SPARE_BYTES)
    ended = shop.run("copy", "--resume").expect(75)
    assert "No space left on device" in ended.cause
    assert "pros" in ended.cause
    assert "make room on that server's disk, then run: shardmig copy --resume" == ended.hint
    small_disk.make_room()
    shop.run("copy", "--resume").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.check_nothing_lost()


def test_a_full_disk_under_a_tail_is_named_and_the_tail_goes_on_with_room(
    cramped_shop: Shop, small_disk: SmallDisk
) -> None:
    """The batch that did not fit is rolled back everywhere; the slot sends it again."""
    shop = cramped_shop
    shop.run("copy").expect(0)
    shop.run("tail", "--until", "caught-up").expect(0)
    small_disk.fill()
    shop.sql("source", "insert into orders (user_id, what) select 2, repeat('big ', 500) from generate_series(1, 2000)")
    ended = shop.run("tail", "--until", "caught-up").expect(75)
    assert "No space left on device" in ended.cause
    assert "applying changes to shard pros" in ended.cause
    assert "make room on that server's disk, then run: shardmig tail" == ended.hint
    small_disk.make_room()
    shop.run("tail", "--until", "caught-up").expect(0)
    shop.run("verify").expect(0)
    shop.check_nothing_lost()

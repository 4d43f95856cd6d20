"""PgBouncer's databases file is rewritten line by line and replaced as a whole; pgbouncer.ini says why it is so."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fixia_shardmig.cutover.pooler_files import (
    Target,
    exported,
    listed,
    pgbouncer_ini,
    replace_file,
    rewritten,
    target_of,
    without,
)
from fixia_shardmig.mapping.load import MappingFile, read_mapping
from fixia_shardmig.model.errors import RefusedError

FILE = """\
; mine
[databases]
shop_pros = host=old.db port=5432 dbname=shop pool_size=7 user=web password='it''s secret'
 shop.all=dbname=shop
"""


def a_mapping(directory: Path, poolers: str = "", **env: str) -> MappingFile:
    """Return a mapping of two shards."""
    file = directory / "shardmig.yaml"
    file.write_text(
        "version: 1\nname: shop\nsource: {url: 'postgresql://u:pw@one.db:5433/shop'}\nshards:\n"
        "  pros: {url: 'postgresql://u:pw@h/p'}\n  shared: {url: 'postgresql://u:pw@h/s', journal: true}\n"
        f"{poolers}\ntables: {{}}\n"
    )
    return read_mapping(file, env)


def test_only_host_port_and_database_of_a_line_are_changed() -> None:
    """Whatever else its author wrote stays: comments, pool sizes, a forced user and password."""
    text = rewritten(FILE, {"shop_pros": Target("new.db", 6000, "it's"), "added": Target("", 5432, "x")})
    assert text.splitlines() == [
        "; mine",
        "[databases]",
        "shop_pros = host=new.db port=6000 dbname='it''s' pool_size=7 user=web password='it''s secret'",
        " shop.all=dbname=shop",
        "added = port=5432 dbname=x",
    ]


def test_rewriting_there_and_back_gives_the_same_file() -> None:
    """What a cutover and a rollback leave."""
    there = rewritten(FILE, {"shop_pros": Target("new.db", 6000, "p")})
    assert rewritten(there, {"shop_pros": Target("old.db", 5432, "shop")}) == FILE


def test_a_file_is_read_as_pgbouncer_reads_it() -> None:
    """Without dbname the alias's own name is meant, without port 5432."""
    found = {"shop_pros": Target("old.db", 5432, "shop"), "shop.all": Target("", 5432, "shop")}
    assert found == listed(FILE)
    assert {"shop.all": found["shop.all"]} == listed(without(FILE, frozenset({"shop_pros"})))
    assert {"a": Target("", 5432, "a")} == listed("[databases]\n;b = host=x\n%include y\na =\n")


def test_several_hosts_are_refused() -> None:
    """Libpq tries them in order until one is the primary; PgBouncer would send every second client elsewhere."""
    with pytest.raises(RefusedError, match="several hosts"):
        target_of("postgresql://u@one,two/shop")
    assert Target("/run/pg", 5432, "u") == target_of("postgresql://u@%2Frun%2Fpg")


def test_a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """A symbolic link stays one; a file with a password is closed to others, whatever it was."""
    file, link = tmp_path / "real.ini", tmp_path / "link.ini"
    file.write_text("old\n")
    file.chmod(0o644)
    link.symlink_to(file)
    replace_file(link, "new\n")
    assert ("new\n", True, 0o644) == (file.read_text(), link.is_symlink(), stat.S_IMODE(file.stat().st_mode))
    replace_file(file, "a = password=x\n")
    assert (0o640, {link, file}) == (stat.S_IMODE(file.stat().st_mode), set(tmp_path.iterdir()))


def test_a_file_that_cannot_be_replaced_is_left_alone(tmp_path: Path) -> None:
    """Also when it is not there at all: shardmig owns it only once its operator has made it."""
    with pytest.raises(RefusedError, match="cannot replace"):
        replace_file(tmp_path / "none.ini", "x")
    assert [] == list(tmp_path.iterdir())


def test_the_exported_aliases_are_all_the_one_database(tmp_path: Path) -> None:
    """The logical split comes before the physical one; no password stands in any of the files."""
    files = exported(a_mapping(tmp_path))
    assert {"pgbouncer.ini", "shardmig.ini"} == set(files)
    one = Target("one.db", 5433, "shop")
    assert {"shop_pros": one, "shop_shared": one} == listed(files["shardmig.ini"])
    assert "%include /etc/pgbouncer/shardmig.ini\n" in files["pgbouncer.ini"]
    assert "pw" not in "".join(files.values())


SEVERAL = """
pgbouncer:
- {admin_url: "${FIRST:-}", databases_file: /srv/a.ini, aliases: {pros: a, shared: b}}
- {admin_url: "postgresql://h:6433/pgbouncer", databases_file: /srv/a.ini, aliases: {pros: c, shared: d}}
"""


def test_each_pooler_of_the_mapping_gets_files_of_its_own(tmp_path: Path) -> None:
    """With its own aliases, its own databases file, and the user of its console as the one who may PAUSE."""
    files = exported(a_mapping(tmp_path, SEVERAL, FIRST="postgresql://boss:pw@h:6432/pgbouncer"))
    assert ["a-2.ini", "a.ini", "pgbouncer-2.ini", "pgbouncer.ini"] == sorted(files)
    assert ({"a", "b"}, {"c", "d"}) == (set(listed(files["a.ini"])), set(listed(files["a-2.ini"])))
    assert "admin_users = boss\n" in files["pgbouncer.ini"]
    assert "admin_users = pgbouncer\n" in files["pgbouncer-2.ini"]


def test_a_pooler_is_exported_before_its_console_is_known(tmp_path: Path) -> None:
    """The files come first, and the variable for its URL afterwards; the aliases are the mapping's even so."""
    files = exported(a_mapping(tmp_path, SEVERAL))
    assert {"a", "b"} == set(listed(files["a.ini"]))


def test_settings_replace_those_of_the_text() -> None:
    """One line a setting, also where the text has it only as a comment."""
    text = pgbouncer_ini(Path("/x"), admin="a", settings={"pool_mode": "session", "auth_user": "me", "verbose": "1"})
    lines = [line for line in text.splitlines() if line.startswith(("pool_mode", "auth_user", "verbose"))]
    assert ["auth_user = me", "pool_mode = session", "verbose = 1"] == sorted(lines)

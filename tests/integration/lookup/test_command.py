"""`shardmig lookup` as scripts and people see it."""

from __future__ import annotations

from tests.fixtures.fix_program import Program
from tests.integration.lookup.conftest import MAPPING, Marketplace


def given(program: Program, marketplace: Marketplace) -> Program:
    """Return the program with Fixia's mapping and an application's environment."""
    program.mapping = MAPPING
    program.env.update(marketplace.env)
    return program


def test_the_command_tells_the_home_and_the_row_as_json(program: Program, switched: Marketplace) -> None:
    """The contract's keys, with the row's values as the server writes them."""
    user = switched.a_user("clients")
    result = given(program, switched).json("lookup", "users", user)
    assert ("fixia", "users", [user], "clients") == tuple(result[k] for k in ("migration", "table", "key", "shard"))
    assert (user, "client") == (result["row"]["id"], result["row"]["user_type"])


def test_the_command_reads_the_source_before_the_switch(program: Program, marketplace: Marketplace) -> None:
    """People see where the row was read and where it will be."""
    marketplace.begin()
    user = marketplace.a_user("professionals")
    ended = given(program, marketplace).run("lookup", "users", user).expect(0)
    assert (
        f"users {user}: home shard professionals, read from the source\n" == ended.stdout.splitlines(keepends=True)[0]
    )


def test_a_row_that_is_nowhere_ends_with_1(program: Program, switched: Marketplace) -> None:
    """A script can tell "nowhere" from "could not say"."""
    ended = given(program, switched).run("lookup", "users", "nobody").expect(1)
    assert "no row of users has the key nobody" == ended.cause
    assert ended.hint


def test_without_a_journal_the_writer_is_said(program: Program, marketplace: Marketplace) -> None:
    """After finalize there is no journal; refusing is the answer until somebody says who has the writes."""
    user = marketplace.a_user("clients")
    given(program, marketplace).run("lookup", "users", user).expect(4)
    assert "clients" == program.json("lookup", "users", user, "--writer", "shards")["shard"]

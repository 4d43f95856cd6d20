"""The reference pages say what the program says."""

from __future__ import annotations

import re

import click
import pytest

from docs.generate import PAGE, find_group, render, walk
from fixia_shardmig.model.errors import Exit
from fixia_shardmig.model.phase import Phase
from tests.house.project import ROOT


@click.group(context_settings={"auto_envvar_prefix": "SHARDMIG"})
@click.option("-m", "--mapping", envvar="SHARDMIG_MAPPING", metavar="FILE", help="The mapping file.")
@click.option("-v", "--verbose", count=True, help="More on stderr.")
def _sample(**_: object) -> None:
    """Stand in for the program."""


@_sample.group(name="schema")
def _schema() -> None:
    """Definitions."""


@_schema.command(name="apply")
@click.option("--jobs", type=int, default=2, help="Processes.")
@click.option("--kind", type=click.Choice(["a", "b"]), required=True)
@click.option("--secret", hidden=True)
@click.argument("table")
def _apply(**_: object) -> None:
    """Make the tables.

    \b
    With a kept
    paragraph.
    """  # noqa: D301 - click wants the character, not two


def test_the_generator_shows_nested_commands_options_and_variables() -> None:
    """A command in a group has its heading, usage, help and one row an option; hidden options stay hidden."""
    page = render(_sample)
    assert (
        "## schema apply\n\n```\nshardmig schema apply [OPTIONS] TABLE\n```\n\nMake the tables.\n\nWith a kept" in page
    )
    assert "| `--jobs` INTEGER | `2` | `SHARDMIG_SCHEMA_APPLY_JOBS` | Processes. |" in page
    assert "| `--kind` a\\|b | required | `SHARDMIG_SCHEMA_APPLY_KIND` | |" in page.replace("|  |", "| |")
    assert "| `-m`, `--mapping` TEXT |  | `SHARDMIG_MAPPING` | The mapping file. |" in page
    assert "secret" not in page


def test_every_command_is_documented() -> None:
    """Each command that is not hidden has a heading in the reference and a docstring that says what it does."""
    page = PAGE.read_text()
    commands = list(walk(find_group()))
    assert [] == [path for path, _ in commands if f"\n## {' '.join(path)}\n" not in page]
    assert [] == [path for path, command in commands if not command.help]


def test_the_command_reference_is_current() -> None:
    """docs/reference/cli.md is what docs/generate.py writes; `make docs` mends it."""
    assert render(find_group()) == PAGE.read_text()


@pytest.mark.parametrize("code", list(Exit))
def test_every_exit_code_is_documented(code: Exit) -> None:
    """Each exit code has its row in the reference."""
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    assert re.search(rf"^\| {code.value} \|", page, re.MULTILINE)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_is_documented(phase: Phase) -> None:
    """Each phase has its row in the explanation of the phases."""
    page = (ROOT / "docs/explanation/phases.md").read_text()
    assert re.search(rf"^\| {phase.name} \|", page, re.MULTILINE)


def test_every_table_of_the_journal_is_documented() -> None:
    """The page has a row for each table in the schema `shardmig`, with the place it is in, and no other."""
    ddl = (ROOT / "fixia_shardmig/journal/journal.sql").read_text()
    everywhere, on_the_journal_shard = ddl.split("-- name: on_the_journal_shard")
    made = r"CREATE TABLE (?:IF NOT EXISTS )?shardmig\.(\w+)"
    of_schema = re.findall(made, (ROOT / "fixia_shardmig/schema/apply.py").read_text())
    expected = {(name, "every shard") for name in [*re.findall(made, everywhere), *of_schema]}
    expected |= {(name, "journal shard") for name in re.findall(made, on_the_journal_shard)}
    page = (ROOT / "docs/reference/journal.md").read_text()
    assert expected == set(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", page, re.MULTILINE))
    later = "".join(path.read_text() for path in (ROOT / "fixia_shardmig/journal").glob("*.sql"))
    assert [] == [name for name in re.findall(made, later) if f"`{name}`" not in page]

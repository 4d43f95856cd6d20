"""What the program says before it does anything: help, completion, usage, where options may come from."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

import pytest

from docs.generate import find_group, walk
from tests.fixtures.fix_program import PROGRAM, SHOP_MAPPING, Program, Shop

COMMANDS = [path for path, _ in walk(find_group())]
HELP_CPU_S_MAX = 1.0
"""Of processor time, since a busy machine makes everything slow; design.md wants 0.3 s for the program itself."""


def test_there_are_commands() -> None:
    """The list that the next tests go through is the program's own."""
    assert {("plan",), ("copy",), ("tail",), ("verify",), ("schema", "diff")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_answers_at_once(program: Program, command: tuple[str, ...]) -> None:
    """Heavy imports stay inside the commands, so that help costs next to nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = program.run(*command, "--help").expect(0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < HELP_CPU_S_MAX
    assert " ".join(command) in ended.stdout
    assert "--help" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (["nothing"], "no such command 'nothing'", "shardmig --help"),
        (["copy", "--fast"], "no such option '--fast'", "shardmig copy --help"),
        (["schema", "appyl"], "no such command 'appyl'", "shardmig schema --help"),
        (["copy", "--jobs", "many"], "invalid value for '--jobs'", "shardmig copy --help"),
        (["copy", "--jobs", "0"], "invalid value for '--jobs'", "shardmig copy --help"),
        (["copy", "--chunk-bytes", "big"], "'big' is not understood; write it like 256MiB", "shardmig copy --help"),
        (["tail", "--until", "soon"], "'soon' is neither caught-up nor an LSN", "shardmig tail --help"),
        (["init"], "missing option '--from-url'", "shardmig init --help"),
        (["--output", "xml", "plan"], "'--output': 'xml' is not one of 'text', 'json', 'jsonl'", "shardmig --help"),
        (["--log-file", "missing/log.jsonl", "plan"], "missing/log.jsonl: no such file", "shardmig --help"),
    ],
)
def test_a_mistake_in_the_command_line_is_a_line_a_hint_and_exit_code_2(
    program: Program, arguments: list[str], cause: str, hint: str
) -> None:
    """No usage block to read through: what is wrong, and the help of the very command."""
    ended = program.run(*arguments).expect(2)
    assert cause in ended.cause
    assert hint == ended.hint
    assert "" == ended.stdout


@pytest.mark.parametrize("arguments", [["nothing"], ["copy", "--fast"], ["--fast", "copy"]])
@pytest.mark.parametrize("output", [["-o", "json"], ["--output=jsonl"]])
def test_a_mistake_in_the_command_line_is_one_json_object_too(
    program: Program, arguments: list[str], output: list[str]
) -> None:
    """A script that asked for JSON gets JSON, whatever went wrong."""
    found = program.run(*output, *arguments).expect(2).json
    assert {"schema_version", "migration", "status", "next_steps", "error"} == set(found)
    assert (1, "usage", 2) == (found["schema_version"], found["status"], found["error"]["exit_code"])
    assert found["error"]["hint"].endswith("--help")


def test_without_a_mapping_the_hint_says_how_to_write_one(program: Program) -> None:
    """There is none here or in a parent directory."""
    ended = program.run("plan").expect(2)
    assert "no mapping given" in ended.cause
    assert "shardmig init" in ended.hint


def test_a_mapping_that_is_not_there_is_named(program: Program) -> None:
    """Exit 2: whoever wrote the command line acts next."""
    program.mapping = Path("nowhere.yaml")
    assert "cannot read the mapping nowhere.yaml" in program.run("plan").expect(2).cause


def test_a_variable_that_is_not_set_is_named_with_its_place(program: Program) -> None:
    """All missing ones at once, each with file, line and column."""
    (program.directory / "shardmig.yaml").write_text(SHOP_MAPPING)
    ended = program.run("plan", env={"SOURCE_URL": "postgresql://u@127.0.0.1/x"}).expect(2)
    assert "shardmig.yaml:5:" in ended.stderr
    assert "PROS_URL" in ended.stderr
    assert "CLIENTS_URL" in ended.stderr
    assert "SOURCE_URL" not in ended.stderr
    assert "shardmig plan" in ended.hint


def test_options_come_from_the_environment_and_the_mapping_from_a_parent(shop: Shop) -> None:
    """`SHARDMIG_<COMMAND>_<OPTION>`, the global ones without a command; shardmig.yaml is found upwards."""
    assert shop.mapping is not None
    shop.mapping.rename(shop.directory / "shardmig.yaml")
    shop.mapping = None
    below = shop.directory / "a" / "b"
    below.mkdir(parents=True)
    variables = {"SHARDMIG_OUTPUT": "json", "SHARDMIG_PLAN_OUT": "plan.json", "SHARDMIG_PLAN_ESTIMATES": "1"}
    shop.directory = below
    assert "shop" == shop.run("plan", env=variables).expect(0).json["migration"]
    assert {"tables", "findings"} <= set(json.loads((below / "plan.json").read_text()))
    ended = shop.run("copy", env={"SHARDMIG_COPY_JOBS": "none"}).expect(2)
    assert "--jobs" in ended.cause
    named = {"SHARDMIG_MAPPING": str(below.parent.parent / "shardmig.yaml"), "SHARDMIG_OUTPUT": "jsonl"}
    assert 1 == len(shop.run("status", env=named).expect(0).stdout.splitlines())


def test_a_file_that_cannot_be_written_is_a_line(shop: Shop) -> None:
    """The plan was made, its file was not: exit 1 and the reason."""
    ended = shop.run("plan", "--out", "missing/plan.json").expect(1)
    assert "missing/plan.json: no such file or directory" in ended.cause
    assert "shardmig plan" in ended.hint


def test_bash_can_source_the_completion_and_completes_commands(program: Program) -> None:
    """The script is valid, and what it calls answers with the commands that fit."""
    script = program.run("completion", "bash").expect(0).stdout
    bash = subprocess.run(
        ["bash", "-c", f"set -eu; {script}\ncomplete -p shardmig"],
        env=program.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "shardmig" in bash.stdout
    answer = program.run(env={"_SHARDMIG_COMPLETE": "bash_complete", "COMP_WORDS": "shardmig ve", "COMP_CWORD": "1"})
    assert "plain,verify" in answer.stdout.splitlines()
    assert PROGRAM.exists()


def test_zsh_and_fish_have_a_completion_too(program: Program) -> None:
    """Both print a script; an unknown shell is exit 2."""
    assert "#compdef shardmig" in program.run("completion", "zsh").expect(0).stdout
    assert "complete" in program.run("completion", "fish").expect(0).stdout
    program.run("completion", "tcsh").expect(2)


def test_the_version_is_told(program: Program) -> None:
    """`--version` needs neither mapping nor server."""
    assert "shardmig" in program.run("--version").expect(0).stdout

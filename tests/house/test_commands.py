"""Commands and options that pages and hints name are there.

Exempt is what says that it is not: a section whose heading has the words "not there yet", and a paragraph, list item or
row of a table with these words in it. What is not there is listed once, in docs/explanation/what-we-do-not-promise.md;
its names may stand nowhere else without them. The decisions (docs/adr) speak of the whole design.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from docs.generate import find_group, walk
from tests.house.project import PACKAGE, files, python_files, text, tree

NOT_THERE = "not there yet"
LIST = Path("docs/explanation/what-we-do-not-promise.md")
CALL = re.compile(r"(?<![\w$.-])(?:[\w.-]*/)*shardmig((?: +[^\s`'\"|&<>#]+)+)")
SPAN = re.compile(r"`([^`]+)`")
NEW_BLOCK = re.compile(r"\s*(?:[-*|] |\||\d+\. |$)")
NO_COMMANDS = ("split value", "evaluated", "owns.", "mapping", "probe", "rewrites. ")
"""What follows the name in strings that are none: of columns and sessions, sentences, the title of a JSON Schema."""


@cache
def _root() -> click.Group:
    return find_group()


@cache
def _commands() -> dict[str, click.Command]:
    return {" ".join(path): command for path, command in walk(_root())}


def _options(command: click.Command) -> dict[str, click.Option]:
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}


def _complaint(words: list[str]) -> str:
    """Return what is wrong with a command line, read until it turns into prose; nothing if nothing is."""
    command: click.Command = _root()
    rest = iter(words)
    for raw in rest:
        word = raw.rstrip(".,;:)…")
        if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word):
            option = _options(command).get(word.partition("=")[0])
            if option is None and word not in {"--help", "-h"}:
                return f"{command.name} has no {word}"
            if option is not None and not (option.is_flag or option.count or "=" in word):
                next(rest, None)
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
            found = command.commands.get(word)
            if found is None:
                return f"there is no command {word}"
            command = found
        else:
            return ""
        if raw != word:
            return ""
    return ""


def _blocks(page: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of paragraphs, list items, rows and lines of code that do not say to be exempt."""
    exempt = fenced = False
    block: list[str] = []
    began = 0
    for number, line in enumerate([*page.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        if block and (fenced or fence or NEW_BLOCK.match(line) or line.startswith("#")):
            if not exempt and NOT_THERE not in " ".join(" ".join(block).split()).lower():
                yield began, "\n".join(block)
            block = []
        if line.startswith("#") and not fenced:
            exempt = NOT_THERE in line.lower()
        fenced ^= fence
        if line.strip() and not fence:
            began = began if block else number
            block.append(f"`{line}`" if fenced else line)
    assert not fenced


def _pages() -> Iterator[tuple[Path, int, str]]:
    for path in files():
        if path.suffix == ".md" and path.parts[:2] != ("docs", "adr"):
            yield from ((path, number, block) for number, block in _blocks(text(path)))


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the literals of a Python file; of its docstrings only what stands between backticks."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree(path))
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = SPAN.findall(node.value) if node in docstrings else [node.value]
            yield from ((node.lineno, one) for one in found)


def _wrong(where: str, code: str) -> Iterator[str]:
    for call in CALL.findall(code):
        if not call.strip().startswith(NO_COMMANDS) and (complaint := _complaint(call.split())):
            yield f"{where}: shardmig{call}: {complaint}"


def test_every_command_in_a_page_is_there() -> None:
    """Each `shardmig …` between backticks and in a block of code, with its options."""
    assert [] == [
        wrong
        for path, number, block in _pages()
        for span in SPAN.findall(block)
        for wrong in _wrong(f"{path}:{number}", " ".join(span.split()))
    ]


def test_every_command_in_a_hint_is_there() -> None:
    """Each `shardmig …` in a string of the package: hints, next steps, help."""
    assert [] == [
        wrong
        for path in python_files(PACKAGE)
        for line, string in _strings(path)
        for wrong in _wrong(f"{path}:{line}", string)
    ]


def test_every_option_in_a_page_is_there() -> None:
    """`cutover --resume` is read as a command; `--resume` alone has to be an option of some command."""
    known = {flag for command in (_root(), *_commands().values()) for flag in _options(command)}
    wrong = []
    for path, number, block in _pages():
        for span in (" ".join(span.split()) for span in SPAN.findall(block)):
            if span.split(" ")[0] in _root().commands and " --" in span:
                wrong += list(_wrong(f"{path}:{number}", f"shardmig {span}"))
            elif re.match(r"--[a-z]", span) and re.split("[ =]", span)[0] not in known:
                wrong.append(f"{path}:{number}: {span}")
    assert [] == wrong


def _missing() -> list[str]:
    """Return the names in the list of what is not there yet."""
    _, _, section = text(LIST).partition("## Not there yet\n")
    return SPAN.findall(section.partition("\n## ")[0])


def test_what_is_listed_as_missing_is_missing() -> None:
    """A command or option that has come since does not stay in the list."""
    assert _missing()
    there = [name for name in _missing() if name in _commands() or not _complaint(name.split())]
    assert [] == there


def test_what_is_missing_is_nowhere_spoken_of_as_there() -> None:
    """No page names it without the words."""
    missing = re.compile("|".join(rf"(?:shardmig )?{re.escape(name)}(?: .*)?" for name in _missing()))
    assert [] == [
        f"{path}:{number}: {span}"
        for path, number, block in _pages()
        for span in SPAN.findall(block)
        if missing.fullmatch(" ".join(span.split()))
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("copy --resume --jobs 4", ""),
        ("--yes cutover --max-pause=5s", ""),
        ("schema diff", ""),
        ("verify; when it finds", ""),
        ("lookup users 4711 --writer shards", ""),
        ("verify --mend", "verify has no --mend"),
        ("schema drop", "there is no command drop"),
        ("-o json frobnicate", "there is no command frobnicate"),
    ],
)
def test_a_wrong_command_is_found(line: str, complaint: str) -> None:
    """The reader of command lines sees what it is there for."""
    assert complaint == _complaint(line.split())

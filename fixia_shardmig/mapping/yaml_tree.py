"""YAML into plain Python data, with the line and column of every key and value.

Scalars follow YAML 1.2: only `true` and `false` are booleans, `yes` and `no` are text. Keys stay text as written, since
a home may be called `007`; booleans among them are folded to `true` and `false`, as PostgreSQL writes them.
It refuses what would be read silently in another way than meant: repeated keys, merge keys, tags, endless aliases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from fixia_shardmig.mapping.problems import MappingProblems, Place, Problem, Report, Way

DEPTH_MAX = 12
"""The deepest thing in a mapping is five levels down; an alias inside its own anchor has no end."""
NODES_MAX = 200_000
"""A thousand tables with ten values each are 20,000; aliases of aliases grow without bound."""

_TAG = "tag:yaml.org,2002:"
_BARE_VARIABLE = re.compile(r"[{,\[].*[\s\[]\$\{")
_BARE_VARIABLE_HINT = 'inside braces and brackets write variables in quotes: {url: "${NAME}"}'
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?\Z")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML 1.2, or the YAML 1.1 of an editor, takes for something else than text."""


@dataclass(slots=True)
class Tree:
    """A document's data and the places of its parts; `report` already holds what is wrong with its form."""

    data: object
    report: Report


@dataclass(slots=True)
class _Walk:
    report: Report
    keys: dict[Way, Place]
    values: dict[Way, Place]
    nodes: int = field(default=0)


def read_tree(text: str, file: str) -> Tree:
    """Parse one YAML document; raises MappingProblems when it is not YAML at all."""
    node = _compose(text, file)
    keys: dict[Way, Place] = {}
    values: dict[Way, Place] = {}
    report = Report(file, keys, values)
    if node is None:
        raise MappingProblems([Problem(file, 1, 1, "the file is empty", "let `shardmig init` write one")])
    return Tree(_construct(node, (), _Walk(report, keys, values)), report)


def _compose(text: str, file: str) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        around = text.split("\n")[line - 1] if line <= text.count("\n") + 1 else ""
        hint = _BARE_VARIABLE_HINT if _BARE_VARIABLE.search(around) else ""
        problem = Problem(file, line, column, f"not YAML: {error.problem or error.context or 'unreadable'}", hint)
        raise MappingProblems([problem]) from None
    except ReaderError as error:
        before = text[: error.position].split("\n")
        problem = Problem(file, len(before), len(before[-1]) + 1, f"not YAML: {error.reason}")
        raise MappingProblems([problem]) from None
    except YAMLError as error:
        raise MappingProblems([Problem(file, 1, 1, f"not YAML: {type(error).__name__}")]) from None
    return node


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _construct(node: Node, way: Way, walk: _Walk) -> object:
    walk.values[way] = _place(node)
    walk.nodes += 1
    if len(way) > DEPTH_MAX or walk.nodes > NODES_MAX:
        walk.report.at_value(way, "nested too deeply or too large", hint="write it out without aliases")
        raise MappingProblems(walk.report.problems)
    if isinstance(node, MappingNode):
        return _mapping(node, way, walk)
    if isinstance(node, SequenceNode):
        return [_construct(item, (*way, index), walk) for index, item in enumerate(node.value)]
    return _scalar(node, way, walk)


def _mapping(node: MappingNode, way: Way, walk: _Walk) -> dict[str, object]:
    data: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = _key(key_node, way, walk)
        if key is None:
            continue
        if key in data:
            first = walk.keys[*way, key]
            _refuse(walk, key_node, f"{key!r} stands twice, first in line {first.line}", "keep one of them")
            continue
        walk.keys[*way, key] = _place(key_node)
        data[key] = _construct(value_node, (*way, key), walk)
    return data


def _key(node: Node, way: Way, walk: _Walk) -> str | None:
    """Return a key as text, or None after noting why it cannot be one."""
    if not isinstance(node, ScalarNode):
        _refuse(walk, node, "a key must be a plain text", "put quotes around names with brackets or braces")
        return None
    text = str(node.value)
    if str(node.tag) == f"{_TAG}merge":
        _refuse(walk, node, "merge keys (<<) are not read", "write the keys out, or give the whole value by an alias")
        return None
    if way[-1:] == ("homes",) and str(node.tag) == f"{_TAG}null":
        _refuse(walk, node, "NULL cannot be given a home in homes", "write otherwise: SHARD for it")
        return None
    return text.lower() if str(node.tag) == f"{_TAG}bool" else text


def _refuse(walk: _Walk, node: Node, message: str, hint: str) -> None:
    place = _place(node)
    walk.report.problems.append(Problem(walk.report.file, place.line, place.column, message, hint))


def _scalar(node: Node, way: Way, walk: _Walk) -> object:
    text = str(node.value)
    tag = str(node.tag).removeprefix(_TAG)
    match tag:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _integer(text)
        case "float":
            return float(text)
        case _:
            pass
    if str(node.tag).startswith("!") and str(node.tag) != "!":
        walk.report.at_value(way, f"the tag {node.tag} is not known", hint="leave it out")
    return text


def _integer(text: str) -> int | str:
    """Return a YAML 1.2 integer; what Python cannot read as one stays text."""
    plain = text.replace("_", "")
    try:
        return int(plain, 10 if plain.lstrip("+-").isdigit() else 0)
    except ValueError:
        return text


def scalar_text(text: str) -> str:
    """Return a text as YAML that reads back as exactly this text, quoted only where it has to be."""
    if _PLAIN.match(text) and text.lower() not in _NOT_TEXT:
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\U{ord(char):08x}"

"""Reads a mapping file: its form, its variables, its URLs. What needs the source's catalog is checked in `check`.

It refuses every key it does not know and reports all mistakes of a file at once, each with its line and column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fixia_shardmig.mapping.file_model import (
    NAME_PATTERN,
    RULE_KEYS,
    Cache,
    Document,
    Hooks,
    PgBouncerSection,
    Section,
    Shard,
    Source,
    TableRule,
    keys_at,
)
from fixia_shardmig.mapping.problems import Report, Way, closest
from fixia_shardmig.mapping.shard_map import Endpoint, PgBouncer
from fixia_shardmig.mapping.urls import normalize
from fixia_shardmig.mapping.yaml_tree import Tree, read_tree
from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName

FILE_BYTES_MAX = 4 * 1024 * 1024
"""A mapping of ten thousand tables is under one megabyte; a data file named by mistake is not read into memory."""

SectionT = TypeVar("SectionT", bound=Section)

_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_VARIABLE_INSIDE = re.compile(r"^(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>.*))?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MappingFile:
    """A mapping file that is well-formed; whether it fits the source is `check_mapping`'s to say.

    Attributes:
        expanded: Whether variables were filled in. If not, URLs with variables stand as written, and nothing can
            connect with them.
        tables: Rules by exact name, in the file's order, each with its key as written.
        report: Knows where everything stands in the file.
    """

    file: str
    document: Document = field(repr=False)
    expanded: bool
    source: Endpoint
    shards: Mapping[str, Endpoint]
    journal_shard: str
    pgbouncers: tuple[PgBouncer, ...]
    cache_url: str = field(repr=False)
    tables: Mapping[TableName, tuple[str, TableRule]]
    report: Report = field(repr=False)


def read_mapping(path: Path | str, env: Mapping[str, str] = os.environ, *, expand_urls: bool = True) -> MappingFile:
    """Read a mapping file; raises MappingProblems with every mistake in it.

    Args:
        path: The YAML file; shown in messages as given.
        env: Where `${NAME}` is looked up.
        expand_urls: False for commands that need no server: no variable has to be set then.
    """
    tree = read_tree(_read_text(Path(path)), str(path))
    report = tree.report
    document = _document(tree)
    tables = _tables(document, report)
    journal = _journal_shard(document, report)
    _check_pgbouncers(document, report)
    urls = _Urls(report, env, expand_urls=expand_urls)
    result = MappingFile(
        file=str(path),
        document=document,
        expanded=expand_urls,
        source=urls.endpoint(("source",), document.source.url, document.source.replicas),
        shards={
            name: urls.endpoint(("shards", name), shard.url, shard.replicas) for name, shard in document.shards.items()
        },
        journal_shard=journal,
        pgbouncers=_pgbouncers(document, urls),
        cache_url=urls.filled(("cache", "url"), document.cache.url) if document.cache else "",
        tables=tables,
        report=Report(report.file, report.keys, report.values),
    )
    report.raise_if_any()
    return result


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise MappingError(f"{path} is larger than a mapping can be", hint="name the mapping file with --mapping")
        return path.read_text("utf-8")
    except OSError as error:
        cause = (error.strerror or type(error).__name__).lower()
        raise MappingError(
            f"cannot read the mapping {path}: {cause}", hint="write one with `shardmig init`, or name it with --mapping"
        ) from None
    except UnicodeDecodeError as error:
        raise MappingError(f"{path} is not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None


# --- form -------------------------------------------------------------------------------------------------------------


def _document(tree: Tree) -> Document:
    """Return the document; when its form is wrong, its well-formed parts, so that their meaning is looked at too."""
    try:
        return Document.model_validate(tree.data)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            _note(details, tree)
        return _well_formed_part(tree.data if isinstance(tree.data, dict) else {})


def _well_formed_part(data: Mapping[str, object]) -> Document:
    """Return what can be judged of a document that was refused; harmless stand-ins take the place of the rest."""
    hidden = "postgresql://"
    shards = data.get("shards")
    tables = data.get("tables")
    return Document.model_construct(
        version=1,
        name="",
        source=_valid(Source, data.get("source")) or Source(url=hidden),
        shards={
            str(name): _valid(Shard, shard) or Shard(url=hidden, journal=_says_journal(shard))
            for name, shard in (shards.items() if isinstance(shards, dict) else ())
        },
        pgbouncer=_valid_poolers(data.get("pgbouncer")),
        hooks=_valid(Hooks, data.get("hooks")),
        cache=_valid(Cache, data.get("cache")),
        tables={
            str(name): valid
            for name, rule in (tables.items() if isinstance(tables, dict) else ())
            if (valid := _valid(TableRule, rule))
        },
    )


def _says_journal(shard: object) -> bool:
    return isinstance(shard, dict) and shard.get("journal") is True


def _valid(section: type[SectionT], data: object) -> SectionT | None:
    try:
        return section.model_validate(data)
    except ValidationError:
        return None


def _valid_poolers(data: object) -> PgBouncerSection | list[PgBouncerSection] | None:
    """Return the poolers if all of them are well-formed: a list without one of them would shift the others' places."""
    if not isinstance(data, list):
        return _valid(PgBouncerSection, data)
    sections = [_valid(PgBouncerSection, one) for one in data]
    return [one for one in sections if one] if all(sections) else None


def _note(details: ErrorDetails, tree: Tree) -> None:
    """Turn one of pydantic's errors into a line somebody who writes YAML understands."""
    report = tree.report
    way = _way(details["loc"], report)
    key = str(details["loc"][-1]) if details["loc"] else ""
    if details["loc"][-1:] == ("[key]",):
        report.at_key(way, f"{way[-1]!r} is not a name for a shard", hint=_name_hint(str(way[-1])))
        return
    match details["type"]:
        case "extra_forbidden":
            known = keys_at(way[:-1], frozenset(str(k[-1]) for k in report.keys if k[:-1] == way[:-1]))
            report.at_key(way, f"unknown key {key!r}", hint=closest(key, known))
        case "missing":
            report.at_key(way, f"{key!r} is missing", hint=_MISSING_HINTS.get(key, f"add {key}: under it"))
        case "string_pattern_mismatch":
            report.at_value(way, f"{key} must be letters a-z, digits and _, at most 40", hint=_NAME_FORM)
        case "literal_error":
            report.at_value(way, "this version of the mapping's form is not known", hint="write version: 1")
        case _:
            message, hint = _type_message(details["type"], way)
            report.at_value(way, message, hint=hint)


_NAME_FORM = "write a-z, 0-9 and _ only, for example fixia_2"
_MISSING_HINTS = {
    "version": "add version: 1",
    "name": "add name: and a name of a-z, 0-9 and _",
    "source": "add source: {url: ...}",
    "shards": "add shards: with a line for each target",
    "tables": "add tables: with a rule for each table",
    "references": "add references: TABLE, or write split_by: COLUMN when the value stands in the row itself",
}


def _name_hint(name: str) -> str:
    fitting = re.sub(r"[^a-z0-9_]+", "_", name.lower())[:40].strip("_")
    return f"write {fitting}" if re.match(NAME_PATTERN, fitting) else _NAME_FORM


_TYPE_MESSAGES = {
    "string_type": ("must be a text", "put quotes around it"),
    "bool_type": ("must be true or false", "write true or false, without quotes"),
    "int_type": ("must be a whole number", "write the number without quotes"),
    "list_type": ("must be a list", "write [a, b]"),
    "dict_type": ("must be a block of keys", "write the keys indented under it"),
    "model_type": ("must be a block of keys", "write the keys indented under it"),
    "string_too_short": ("is empty", "give it a value or leave it out"),
    "too_short": ("is empty", "give it a value or leave it out"),
    "greater_than": ("must be more than 0", "leave it out to have none"),
}


def _type_message(kind: str, way: Way) -> tuple[str, str]:
    if way[-1:] == ("skip",) and kind == "string_type":
        return "skip needs a written reason", 'write skip: "why it is not moved"'
    if len(way) == 2 and way[0] == "tables":  # noqa: PLR2004  ("tables", TABLE)
        return f"the rule of {way[1]} must be a block of keys", "write {follows: COLUMN}, {shard: SHARD}, ..."
    message, hint = _TYPE_MESSAGES.get(kind, (f"cannot be understood ({kind})", ""))
    return f"{_shown(way)} {message}", hint


def _shown(way: Way) -> str:
    return ".".join(str(part) for part in way) or "the file"


def _way(location: tuple[str | int, ...], report: Report) -> Way:
    """Return the place in the file that pydantic's location means, without the tags of its unions.

    The last part is kept even when it is not in the file, since a missing key has no place but has a name.
    """
    way: Way = ()
    for index, part in enumerate(location):
        if (*way, part) in report.values or (index == len(location) - 1 and not str(part).startswith(("<", "["))):
            way = (*way, part)
    return way


# --- meaning, as far as the file alone tells --------------------------------------------------------------------------


def _tables(document: Document, report: Report) -> dict[TableName, tuple[str, TableRule]]:
    tables: dict[TableName, tuple[str, TableRule]] = {}
    for key, rule in document.tables.items():
        _check_rule(key, rule, report)
        try:
            name = TableName.parse(key)
        except MappingError as error:
            report.at_key(("tables", key), error.message, hint=error.hint)
            continue
        if name in tables:
            report.at_key(("tables", key), f"{name} has two rules", hint=f"the other one is {tables[name][0]!r}")
            continue
        tables[name] = (key, rule)
    return tables


def _check_rule(key: str, rule: TableRule, report: Report) -> None:
    at: Way = ("tables", key)
    kinds = [kind for kind in RULE_KEYS if getattr(rule, kind) is not None]
    if not kinds:
        report.at_key(at, f"{key} has no rule", hint=f"write one of {', '.join(RULE_KEYS)}")
    for kind in kinds[1:]:
        report.at_key((*at, kind), f"{key} has two rules, {kinds[0]} and {kind}", hint="keep one of them")
    if rule.reference is False:
        report.at_value((*at, "reference"), "reference: false is no rule", hint="write {shard: SHARD} instead")
    if rule.skip is not None and not rule.skip.strip():
        report.at_value((*at, "skip"), "skip needs a written reason", hint='write skip: "why it is not moved"')
    if rule.homes is not None and "split_by" not in kinds:
        report.at_key((*at, "homes"), "homes without split_by decides nothing", hint="add split_by: COLUMN")
    if rule.otherwise is not None and kinds and not {"split_by", "follows"} & set(kinds):
        report.at_key((*at, "otherwise"), f"otherwise means nothing beside {kinds[0]}", hint="leave it out")
    if isinstance(rule.split_by, str) and not rule.homes and rule.otherwise is None:
        report.at_key((*at, "split_by"), "no value has a home", hint="add homes: {VALUE: SHARD}")


def _journal_shard(document: Document, report: Report) -> str:
    """Return the shard that keeps the journal; empty after noting that there is none, or more than one."""
    marked = [name for name, shard in document.shards.items() if shard.journal]
    if not marked and document.shards:
        names = list(document.shards)
        hint = f"write journal: true at one of them, for example at {names[-1]}"
        report.at_key(("shards",), "no shard keeps the journal", hint=hint)
    for name in marked[1:]:
        message = f"a second shard keeps the journal, {name} beside {marked[0]}"
        report.at_key(("shards", name, "journal"), message, hint="keep journal: true at exactly one")
    return marked[0] if marked else ""


def _pooler_sections(document: Document) -> list[tuple[Way, PgBouncerSection]]:
    """Return each pooler with its place in the file."""
    found = document.pgbouncer
    if isinstance(found, list):
        return [(("pgbouncer", number), section) for number, section in enumerate(found)]
    return [(("pgbouncer",), found)] if found is not None else []


def _check_pgbouncers(document: Document, report: Report) -> None:
    for way, section in _pooler_sections(document):
        _check_aliases(document, way, section, report)
        if not section.databases_file and not (document.hooks and document.hooks.on_switch):
            message = "nothing re-points the pooler: no databases_file, and no command in hooks.on_switch"
            report.at_key(way, message, hint="add databases_file: /etc/pgbouncer/shardmig.ini")


def _check_aliases(document: Document, way: Way, section: PgBouncerSection, report: Report) -> None:
    for shard in section.aliases:
        if shard not in document.shards:
            message = f"alias for an unknown shard {shard!r}"
            report.at_key((*way, "aliases", shard), message, hint=closest(shard, document.shards))
    missing = [name for name in document.shards if name not in section.aliases]
    if missing:
        message = f"no alias for {', '.join(missing)}"
        report.at_key((*way, "aliases"), message, hint=f"add {missing[0]}: NAME_OF_ITS_DATABASE_IN_PGBOUNCER")
    for shard, alias in section.aliases.items():
        first = next(name for name, other in section.aliases.items() if other == alias)
        if first != shard:
            message = f"the alias {alias} stands for two shards, {first} and {shard}"
            report.at_value((*way, "aliases", shard), message, hint="give each shard an alias of its own")


def _pgbouncers(document: Document, urls: _Urls) -> tuple[PgBouncer, ...]:
    """Return the poolers; one whose URL is empty, since its variable is not set, is none."""
    found: list[PgBouncer] = []
    for way, section in _pooler_sections(document):
        admin_url = urls.optional((*way, "admin_url"), section.admin_url)
        file = urls.filled((*way, "databases_file"), section.databases_file)
        if admin_url:
            found.append(PgBouncer(admin_url, file, dict(section.aliases)))
    return tuple(found)


# --- variables and URLs -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Urls:
    """Fills variables in and normalizes URLs, noting each mistake at its value."""

    report: Report
    env: Mapping[str, str]
    expand_urls: bool = field(kw_only=True)

    def endpoint(self, way: Way, url: str, replicas: Iterable[str]) -> Endpoint:
        """Return a database with its replicas; replicas whose variable is empty are left out."""
        main = self.optional((*way, "url"), url)
        if not main and not self._has_problem_at((*way, "url")):
            self.report.at_value((*way, "url"), "the URL is empty", hint="set its variable, or write the URL")
        others = (self.optional((*way, "replicas", index), replica) for index, replica in enumerate(replicas))
        return Endpoint(main, tuple(replica for replica in others if replica))

    def optional(self, way: Way, text: str) -> str:
        """Return a normalized URL, or nothing where the text is empty or was refused."""
        filled = self.filled(way, text)
        if not filled or (not self.expand_urls and _is_open(filled)):
            return filled
        try:
            return normalize(filled)
        except MappingError as error:
            self.report.at_value(way, error.message, hint=error.hint)
            return ""

    def filled(self, way: Way, text: str) -> str:
        """Return a text with its variables filled in and a `file:` read."""
        if not self.expand_urls:
            return text
        filled = _VARIABLE.sub(lambda match: self._variable(way, match), text)
        return self._secret(way, filled.strip()) if filled.strip().startswith("file:") else filled

    def _variable(self, way: Way, match: re.Match[str]) -> str:
        inside = _VARIABLE_INSIDE.match(match[1])
        if not inside or not match[0].endswith("}"):
            self.report.at_value(way, "a variable cannot be read", hint="write ${NAME} or ${NAME:-default}")
            return ""
        name, default = inside["name"], inside["default"]
        value = self.env.get(name)
        if value or (value is not None and not inside["has_default"]):
            return value
        if inside["has_default"]:
            return default
        hint = f"export {name}=..., or write ${{{name}:-default}}"
        self.report.at_value(way, f"the environment has no {name}", hint=hint)
        return ""

    def _secret(self, way: Way, text: str) -> str:
        path = Path("/" + text.removeprefix("file:").lstrip("/"))
        try:
            secret = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            cause = (getattr(error, "strerror", None) or "not a text").lower()
            self.report.at_value(way, f"cannot read the secret {path}: {cause}", hint="write file:/absolute/path")
            return ""
        if not secret:
            self.report.at_value(way, f"the secret {path} is empty", hint="write the URL into it")
        return secret

    def _has_problem_at(self, way: Way) -> bool:
        place = self.report.values.get(way)
        return place is not None and any((p.line, p.column) == (place.line, place.column) for p in self.report.problems)


def _is_open(text: str) -> bool:
    return "${" in text or text.strip().startswith("file:")

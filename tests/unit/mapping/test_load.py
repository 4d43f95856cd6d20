"""Reading a mapping file: each mistake of form has its exact place, and no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixia_shardmig.mapping.load import FILE_BYTES_MAX, read_mapping
from fixia_shardmig.mapping.problems import MappingProblems, Problem
from fixia_shardmig.model.errors import MappingError
from tests.unit.mapping.mistakes import HEAD, SECRET, load_problems, place_of_mark, write

MISTAKES = {
    "an unknown key": ("tables:\n  users: {^shrad: pros, skip: x}", "unknown key 'shrad'", "did you mean shard?"),
    "an unknown key at the top": (
        HEAD + "^tablez: {}\ntables: {}",
        "unknown key 'tablez'",
        "did you mean tables?",
    ),
    "an unknown key of a long form": (
        "tables:\n  a: {follows: {columns: [x], ^referencez: b}}",
        "unknown key 'referencez'",
        "did you mean references?",
    ),
    "an unknown key in a list": (
        "tables:\n  a: {follows: [x, {columns: [x], ^two: [b]}]}",
        "unknown key 'two'",
        "did you mean to?",
    ),
    "an unknown key of a split": (
        "tables:\n  a: {homes: {x: pros}, split_by: {sql: x, ^valoo: y}}",
        "unknown key 'valoo'",
        "known here: sql",
    ),
    "a repeated key": (
        "tables:\n  users: {shard: pros}\n  ^users: {shard: shared}",
        "'users' stands twice, first in line 8",
        "keep one of them",
    ),
    "a repeated table in another spelling": (
        "tables:\n  users: {shard: pros}\n  ^public.users: {shard: shared}",
        "users has two rules",
        "the other one is 'users'",
    ),
    "a repeated home": (
        "tables:\n  a: {split_by: x, homes: {true: pros, ^True: shared}}",
        "'true' stands twice, first in line 8",
        "keep one of them",
    ),
    "a home for NULL": (
        "tables:\n  a: {split_by: x, homes: {b: pros, ^null: shared}}",
        "NULL cannot be given a home in homes",
        "write otherwise: SHARD for it",
    ),
    "no rule": (
        "tables:\n  ^users: {}",
        "users has no rule",
        "write one of split_by, follows, shard, reference, skip",
    ),
    "two rules": (
        "tables:\n  users: {shard: pros, ^reference: true}",
        "users has two rules, shard and reference",
        "keep one of them",
    ),
    "a rule that is a text": (
        "tables:\n  users: ^follows id",
        "the rule of users must be a block of keys",
        "write {follows: COLUMN}, {shard: SHARD}, ...",
    ),
    "reference: false": (
        "tables:\n  users: {reference: ^false}",
        "reference: false is no rule",
        "write {shard: SHARD} instead",
    ),
    "skip: true": (
        "tables:\n  users: {skip: ^true}",
        "skip needs a written reason",
        'write skip: "why it is not moved"',
    ),
    "a blank reason": (
        "tables:\n  users: {skip: ^'  '}",
        "skip needs a written reason",
        'write skip: "why it is not moved"',
    ),
    "homes without a split": (
        "tables:\n  users: {shard: pros, ^homes: {a: pros}}",
        "homes without split_by decides nothing",
        "add split_by: COLUMN",
    ),
    "otherwise without a choice": (
        "tables:\n  users: {shard: pros, ^otherwise: pros}",
        "otherwise means nothing beside shard",
        "leave it out",
    ),
    "a split without homes": (
        "tables:\n  users: {^split_by: kind}",
        "no value has a home",
        "add homes: {VALUE: SHARD}",
    ),
    "a follow without a column": (
        "tables:\n  users: {follows: ^[]}",
        "tables.users.follows is empty",
        "give it a value or leave it out",
    ),
    "a number for a name": (
        "tables:\n  users: {shard: ^1}",
        "tables.users.shard must be a text",
        "put quotes around it",
    ),
    "a table name with an open quote": (
        "tables:\n  ^'\"users': {shard: pros}",
        "'\"users' is not a table name",
        'write table, schema.table, or quote a part that holds a dot: sales."with.dot"',
    ),
    "a merge key": (
        "tables:\n  ^<<: {users: {shard: pros}}",
        "merge keys (<<) are not read",
        "write the keys out, or give the whole value by an alias",
    ),
    "a tag": ("tables:\n  users: {shard: ^!pros x}", "the tag !pros is not known", "leave it out"),
    "a list as a key": (
        "tables:\n  ^[a]: {shard: pros}",
        "a key must be a plain text",
        "put quotes around names with brackets or braces",
    ),
    "another version": (
        HEAD.replace("version: 1", "version: ^2") + "tables: {}",
        "this version of the mapping's form is not known",
        "write version: 1",
    ),
    "no tables": (f"^{HEAD}", "'tables' is missing", "add tables: with a rule for each table"),
    "a name with a capital": (
        HEAD.replace("name: shop", "name: ^Shop") + "tables: {}",
        "name must be letters a-z, digits and _, at most 40",
        "write a-z, 0-9 and _ only, for example fixia_2",
    ),
    "a name of 41 letters": (
        HEAD.replace("name: shop", f"name: ^{41 * 'a'}") + "tables: {}",
        "name must be letters a-z, digits and _, at most 40",
        "write a-z, 0-9 and _ only, for example fixia_2",
    ),
    "a shard's name with a dash": (
        HEAD.replace("  pros:", "  ^the-pros:") + "tables: {}",
        "'the-pros' is not a name for a shard",
        "write the_pros",
    ),
    "no journal": (
        HEAD.replace("shards:", "^shards:").replace(", journal: true", "") + "tables: {}",
        "no shard keeps the journal",
        "write journal: true at one of them, for example at shared",
    ),
    "one shard without the journal": (
        'version: 1\nname: a\nsource: {url: "postgresql://h/a"}\n^shards: {b: {url: "postgresql://h/b"}}\ntables: {}',
        "no shard keeps the journal",
        "write journal: true at one of them, for example at b",
    ),
    "two journals": (
        HEAD.replace('/pros"}', '/pros", journal: true}').replace('shared", journal: true', 'shared", ^journal: true')
        + "tables: {}",
        "a second shard keeps the journal, shared beside pros",
        "keep journal: true at exactly one",
    ),
    "no shards": (
        'version: 1\nname: a\nsource: {url: "postgresql://h/a"}\nshards: ^{}\ntables: {}',
        "shards is empty",
        "give it a value or leave it out",
    ),
    "an empty URL": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', '^"${PROS:-}"') + "tables: {}",
        "the URL is empty",
        "set its variable, or write the URL",
    ),
    "a missing variable": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', '^"${PROS_URL}"') + "tables: {}",
        "the environment has no PROS_URL",
        "export PROS_URL=..., or write ${PROS_URL:-default}",
    ),
    "a variable that stays open": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', '^"${PROS_URL"') + "tables: {}",
        "a variable cannot be read",
        "write ${NAME} or ${NAME:-default}",
    ),
    "a missing secret": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', "^file:/nowhere/url") + "tables: {}",
        "cannot read the secret /nowhere/url: no such file or directory",
        "write file:/absolute/path",
    ),
    "another database's URL": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', "^mysql://app:hunter2@db/pros") + "tables: {}",
        "not a PostgreSQL URL",
        "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    ),
    "a replica's URL": (
        HEAD.replace('/pros"}', '/pros", replicas: [^"postgres://db/x?sslmod=disable"]}') + "tables: {}",
        "unknown URL parameter 'sslmod'",
        "did you mean sslmode?",
    ),
    "an alias for no shard": (
        HEAD
        + "pgbouncer: {admin_url: 'postgres://h/p', databases_file: f, aliases: {pros: a, shared: b, ^pro: c}}\n"
        + "tables: {}",
        "alias for an unknown shard 'pro'",
        "did you mean pros?",
    ),
    "a shard without an alias": (
        HEAD + "pgbouncer: {admin_url: 'postgres://h/p', databases_file: f, ^aliases: {pros: a}}\ntables: {}",
        "no alias for shared",
        "add shared: NAME_OF_ITS_DATABASE_IN_PGBOUNCER",
    ),
    "one alias for two shards": (
        HEAD
        + "pgbouncer: {admin_url: 'postgres://h/p', databases_file: f, aliases: {pros: a, shared: ^a}}\ntables: {}",
        "the alias a stands for two shards, pros and shared",
        "give each shard an alias of its own",
    ),
    "a key of one of several poolers": (
        HEAD + "pgbouncer: [{admin_url: 'postgres://h/p', ^alias: {pros: a, shared: b}}]\ntables: {}",
        "unknown key 'alias'",
        "did you mean aliases?",
    ),
    "an alias of one of several poolers": (
        HEAD + "pgbouncer: [{admin_url: 'postgres://h/p', databases_file: f, ^aliases: {pros: a}}]\ntables: {}",
        "no alias for shared",
        "add shared: NAME_OF_ITS_DATABASE_IN_PGBOUNCER",
    ),
    "a pooler that nothing re-points": (
        HEAD + "^pgbouncer: {admin_url: 'postgres://h/p', aliases: {pros: a, shared: b}}\ntables: {}",
        "nothing re-points the pooler: no databases_file, and no command in hooks.on_switch",
        "add databases_file: /etc/pgbouncer/shardmig.ini",
    ),
    "a lifetime of nothing": (
        HEAD + "cache: {ttl: {users: ^0}}\ntables: {}",
        "cache.ttl.users must be more than 0",
        "leave it out to have none",
    ),
    "a lifetime as a text": (
        HEAD + "cache: {ttl: {users: ^'60'}}\ntables: {}",
        "cache.ttl.users must be a whole number",
        "write the number without quotes",
    ),
    "a hook that is not a list": (
        HEAD + "hooks: {on_switch: ^./repoint.sh}\ntables: {}",
        "hooks.on_switch must be a list",
        "write [a, b]",
    ),
    "no YAML": ("tables: {a: ^]", "not YAML: expected the node content, but found ']'", ""),
    "a bare variable in braces": (
        HEAD.replace('"postgresql://app:hunter2@db/pros"', "$^{PROS_URL}") + "tables: {}",
        "not YAML: expected ',' or '}', but got '{'",
        'inside braces and brackets write variables in quotes: {url: "${NAME}"}',
    ),
    "an unknown alias": ("tables: {a: ^*b}", "not YAML: found undefined alias 'b'", ""),
    "a control character": ("tables: {a: ^\x01}", "not YAML: special characters are not allowed", ""),
    "a second document": (
        HEAD + "tables: {}\n^---\na: b",
        "not YAML: but found another document",
        "",
    ),
    "nothing at all": ("^# version", "the file is empty", "let `shardmig init` write one"),
    "a list": ("^- version", "the file must be a block of keys", "write the keys indented under it"),
}


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_of_form_is_named_at_its_place(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """Every mistake of form gives one problem with exactly this line, column, message and hint."""
    line, column = place_of_mark(text)
    problems = load_problems(tmp_path, text)
    expected = Problem(str(tmp_path / "shop.yaml"), line, column, message, hint)
    assert (expected,) == problems


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """A file with mistakes of several kinds is refused once, with all of them in the file's order."""
    text = """\
        version: 1
        nme: shop
        source: {url: "${NOWHERE}"}
        shards:
          pros: {url: "postgresql://h/pros", journall: true}
          shared: {url: "postgresql://h/shared"}
        tables:
          users: {shard: pros, skip: why}
          users: {shard: pros}
        """
    path = tmp_path / "shop.yaml"
    lines = [
        "1:1: 'name' is missing; hint: add name: and a name of a-z, 0-9 and _",
        "2:1: unknown key 'nme'; hint: did you mean name?",
        "3:15: the environment has no NOWHERE; hint: export NOWHERE=..., or write ${NOWHERE:-default}",
        "4:1: no shard keeps the journal; hint: write journal: true at one of them, for example at shared",
        "5:38: unknown key 'journall'; hint: did you mean journal?",
        "8:24: users has two rules, shard and skip; hint: keep one of them",
        "9:3: 'users' stands twice, first in line 8; hint: keep one of them",
    ]
    assert [f"{path}:{line}" for line in lines] == [str(problem) for problem in load_problems(tmp_path, text)]


def test_an_error_text_is_one_line_a_problem(tmp_path: Path) -> None:
    """The exception reads like a compiler's output and asks for exit code 2."""
    with pytest.raises(MappingProblems) as caught:
        read_mapping(write(tmp_path, "tables:\n  a: {}\n  b: {}"), {})
    assert [str(problem) for problem in caught.value.problems] == str(caught.value).split("\n")
    assert caught.value.exit_code == 2


def test_variables_and_defaults_are_filled_in(tmp_path: Path) -> None:
    """`${NAME}` is the environment's, `${NAME:-x}` falls back where it is unset or empty, parts of a URL too."""
    text = """\
        version: 1
        name: shop
        source: {url: "${DB}", replicas: ["${REPLICA:-}", "postgres://${HOST:-other}/shop"]}
        shards: {one: {url: "postgres://app:${PW}@h/one", journal: true}}
        cache: {url: "${REDIS:-redis://localhost}"}
        pgbouncer: {admin_url: "${POOLER:-}", databases_file: f, aliases: {one: a}}
        tables: {}
        """
    env = {"DB": "postgres://h/shop?schema=public&connection_limit=5", "HOST": "", "PW": "a@b:c"}
    mapping_file = read_mapping(write(tmp_path, text), env)
    assert mapping_file.source.url == "postgresql://h/shop"
    assert mapping_file.source.replicas == ("postgresql://other/shop",)
    assert mapping_file.shards["one"].url == "postgresql://app:a%40b%3Ac@h/one"
    assert mapping_file.cache_url == "redis://localhost"
    assert () == mapping_file.pgbouncers


def test_a_secret_file_holds_the_url(tmp_path: Path) -> None:
    """`file:/path`, written or in a variable, is read and its line end is left out."""
    secret = tmp_path / "url"
    secret.write_text("postgres://app:hunter2@h/shop\n")
    text = HEAD.replace('"postgresql://app:hunter2@db/shop"', f"file:{secret}").replace(
        '"postgresql://app:hunter2@db/pros"', '"${PROS}"'
    )
    other = tmp_path / "other"
    other.write_text("postgres://h/other")
    mapping_file = read_mapping(write(tmp_path, text + "tables: {}"), {"PROS": f"file://{other}"})
    assert mapping_file.source.url == "postgresql://app:hunter2@h/shop"
    assert mapping_file.shards["pros"].url == "postgresql://h/other"


def test_an_empty_secret_is_named(tmp_path: Path) -> None:
    """A secret without content does not become libpq's default database."""
    secret = tmp_path / "url"
    secret.write_text("\n")
    problems = load_problems(
        tmp_path, HEAD.replace('"postgresql://app:hunter2@db/shop"', f"file:{secret}") + "tables: {}"
    )
    assert [problem.message for problem in problems] == [f"the secret {secret} is empty"]


def test_a_file_is_read_without_its_variables_where_no_server_is_asked(tmp_path: Path) -> None:
    """With expand_urls=False nothing is looked up, and such a URL connects to nothing."""
    text = HEAD.replace('"postgresql://app:hunter2@db/pros"', '"${PROS_URL}"').replace(
        '"postgresql://app:hunter2@db/shop"', "file:/nowhere"
    )
    mapping_file = read_mapping(write(tmp_path, text + "tables: {}"), {}, expand_urls=False)
    assert not mapping_file.expanded
    assert (mapping_file.shards["pros"].url, mapping_file.source.url) == ("${PROS_URL}", "file:/nowhere")


def test_no_repr_shows_a_password(tmp_path: Path) -> None:
    """A mapping file can be printed while debugging."""
    mapping_file = read_mapping(write(tmp_path, HEAD + "tables: {}"), {})
    for shown in (mapping_file, mapping_file.document, mapping_file.document.source, mapping_file.document.shards):
        assert SECRET not in repr(shown)


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    """`yes` and `no` are texts, `true` is a boolean whose key reads as PostgreSQL writes it, `007` stays as written."""
    text = "tables:\n  a: {split_by: x, homes: {yes: pros, no: pros, TRUE: pros, 007: shared, '': pros}}"
    _, rule = next(iter(read_mapping(write(tmp_path, text), {}).tables.values()))
    assert rule.homes == {"yes": "pros", "no": "pros", "true": "pros", "007": "shared", "": "pros"}


def test_an_alias_stands_for_its_value(tmp_path: Path) -> None:
    """Homes can be written once for two tables."""
    text = "tables:\n  a: {split_by: x, homes: &homes {b: pros}}\n  c: {split_by: x, homes: *homes}"
    rules = read_mapping(write(tmp_path, text), {}).tables
    assert [rule.homes for _, rule in rules.values()] == [{"b": "pros"}, {"b": "pros"}]


@pytest.mark.parametrize(
    "text",
    [
        "tables: &t {a: *t}",
        "a: &a [x]\n"
        + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [" + ", ".join(9 * [f"*{chr(97 + n)}"]) + "]\n" for n in range(8)),
    ],
)
def test_aliases_without_end_are_refused(tmp_path: Path, text: str) -> None:
    """An alias inside its own anchor, and aliases of aliases, end in an error and not in a full memory."""
    assert any("nested too deeply or too large" in problem.message for problem in load_problems(tmp_path, text))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """The hint names the command that writes a mapping."""
    with pytest.raises(MappingError, match="no such file") as caught:
        read_mapping(tmp_path / "none.yaml", {})
    assert "shardmig init" in caught.value.hint


def test_a_file_that_is_no_mapping_is_not_read_into_memory(tmp_path: Path) -> None:
    """A dump named by mistake is refused by its size, and bytes that are no text by their place."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(MappingError, match="larger than a mapping can be"):
        read_mapping(big, {})
    latin = tmp_path / "latin"
    latin.write_bytes(b"name: \xe9")
    with pytest.raises(MappingError, match="not UTF-8 at byte 6"):
        read_mapping(latin, {})

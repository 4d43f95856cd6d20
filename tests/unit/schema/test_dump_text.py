"""Taking pg_dump's text apart."""

from __future__ import annotations

import pytest

from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.schema.dump_text import parse, split_statements

DUMP = r"""--
-- PostgreSQL database dump
--

\restrict 8oVh

SET transaction_timeout = 0;

--
-- TOC entry 217 (class 1259 OID 16405)
-- Name: users; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.users (
    id text DEFAULT '-- TOC entry 9 (class 1 OID 1)
-- Name: no; Type: TABLE; Schema: public; Owner: -'::text
);


--
-- TOC entry 3511 (class 0 OID 0)
-- Dependencies: 217 4
-- Name: TABLE users; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.users IS E'a\\''b
-- TOC entry 1 (class 1 OID 1)
';


--
-- TOC entry 240 (class 1255 OID 16502)
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.f() RETURNS text LANGUAGE sql AS $_$
--
-- TOC entry 5 (class 1255 OID 7)
-- Name: g(); Type: FUNCTION; Schema: public; Owner: -
--
select $$a;'$$ $_$;


-- Completed on 2026-01-01 00:00:00 UTC

--
-- PostgreSQL database dump complete
--

\unrestrict 8oVh
"""


def test_each_heading_begins_an_entry() -> None:
    """A dump's entries are told apart by number, OIDs, kind and name, and a comment knows what it is about."""
    entries = parse(DUMP)
    assert [(217, "TABLE", "users"), (3511, "COMMENT", "TABLE users"), (240, "FUNCTION", "f()")] == [
        (entry.number, entry.kind, entry.name) for entry in entries
    ]
    assert (1259, 16405, ()) == (entries[0].class_oid, entries[0].oid, entries[0].depends_on)
    assert (217, 4) == entries[1].depends_on


def test_a_body_that_looks_like_a_heading_stays_a_body() -> None:
    """Literals, escaped literals and dollar quotes are followed, so that a function's comment begins no entry."""
    table, comment, function = parse(DUMP)
    assert "TOC entry 9" in table.sql
    assert comment.sql.endswith("(class 1 OID 1)\n';")
    assert function.sql.endswith("select $$a;'$$ $_$;")
    assert "g(); Type: FUNCTION" in function.sql


def test_settings_and_restrict_lines_are_in_no_entry() -> None:
    """What pg_dump 18 sets and PostgreSQL 15 rejects, and psql's own commands, never reach a target."""
    text = "".join(entry.sql for entry in parse(DUMP))
    assert [False, False] == ["transaction_timeout" in text, "restrict" in text]


def test_a_text_without_entries_is_refused() -> None:
    """An empty answer is not taken for an empty database."""
    with pytest.raises(ShardmigError, match="no entries"):
        parse("SET a = 1;\n")


def test_statements_end_at_a_semicolon_outside_quotes() -> None:
    """A quoted identifier and a literal may hold semicolons."""
    text = """GRANT SELECT ON TABLE public."a;b" TO x;\nCOMMENT ON TABLE t IS ';';\n"""
    assert ["""GRANT SELECT ON TABLE public."a;b" TO x;""", "COMMENT ON TABLE t IS ';';"] == list(
        split_statements(text)
    )

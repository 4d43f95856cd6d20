"""Names of tables read back as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixia_shardmig.model.errors import MappingError
from fixia_shardmig.model.names import TableName

PARTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)


@given(st.builds(TableName, PARTS, PARTS))
def test_a_shown_name_reads_back_as_itself(name: TableName) -> None:
    """Pitfall 52: dots, quotes, capitals, unicode and the same name in two schemas stay apart."""
    assert name == TableName.parse(str(name))


@given(PARTS, PARTS)
def test_quoted_parts_are_exact(schema: str, name: str) -> None:
    """A name written with both parts quoted, as SQL has it, is that name."""
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    assert TableName(schema, name) == TableName.parse(quoted)


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """Nothing but MappingError comes out of a text that is no name, and what is accepted has no empty part."""
    try:
        name = TableName.parse(text)
    except MappingError:
        return
    assert name.schema
    assert name.name


def test_public_is_left_out_and_may_be_written() -> None:
    """`users` and `public.users` are one table, `User` is another one."""
    assert TableName.parse("users") == TableName.parse("public.users") == TableName("public", "users")
    assert str(TableName("public", "User")) == "User"


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '"a', 'a"', '""', 'a.""'])
def test_what_is_no_name_is_refused(text: str) -> None:
    """Empty parts, three parts and open quotes are mistakes."""
    with pytest.raises(MappingError):
        TableName.parse(text)

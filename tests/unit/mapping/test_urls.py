"""URLs as applications have them become URLs that libpq reads, and no output shows their passwords."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from fixia_shardmig.mapping.urls import LIBPQ_PARAMETERS, database_of, normalize, redact
from fixia_shardmig.model.errors import MappingError

TRANSLATIONS = {
    "postgres://u:p@h/d": "postgresql://u:p@h/d",
    "POSTGRES://h/d": "postgresql://h/d",
    "postgresql+psycopg://u@h/d": "postgresql://u@h/d",
    "  postgresql://h/d\n": "postgresql://h/d",
    "postgres://u:p@h:6432/d?schema=public&connection_limit=5&pool_timeout=10&pgbouncer=true": "postgresql://u:p@h:6432/d",
    "postgres://h/d?statement_cache_size=0&socket_timeout=5&connect_timeout=3": "postgresql://h/d?connect_timeout=3",
    "postgres://h/d?schema=shop": "postgresql://h/d?options=-c%20search_path%3Dshop",
    "postgres://h/d?schema=The Shop": "postgresql://h/d?options=-c%20search_path%3D%22The%5C%20Shop%22",
    "postgres://h/d?search_path=a,b": "postgresql://h/d?options=-c%20search_path%3Da%2Cb",
    "postgres://h/d?options=-c%20geqo%3Doff&schema=s": "postgresql://h/d?options=-c%20geqo%3Doff%20-c%20search_path%3Ds",
    "postgres://h/d?sslmode=require&sslaccept=strict": "postgresql://h/d?sslmode=verify-full&sslrootcert=system",
    "postgres://h/d?sslmode=require&sslaccept=accept_invalid_certs": "postgresql://h/d?sslmode=require",
    "postgres://h/d?sslcert=./ca.pem&sslaccept=strict": "postgresql://h/d?sslrootcert=.%2Fca.pem&sslmode=verify-full",
    "postgres://h/d?sslmode=no-verify": "postgresql://h/d?sslmode=require",
    "postgres://h/d?ssl=true": "postgresql://h/d?sslmode=require",
    "postgres://h1:5433,h2/d?target_session_attrs=primary": "postgresql://h1:5433,h2/d?target_session_attrs=primary",
    "postgres://[::1]:5433/d": "postgresql://[::1]:5433/d",
    "postgres://u@%2Fvar%2Frun/d": "postgresql://u@%2Fvar%2Frun/d",
    "postgres:///d?host=/tmp": "postgresql:///d?host=%2Ftmp",
    "postgres://u:a@b:c@h/d": "postgresql://u:a%40b%3Ac@h/d",
    "postgres://u:100%25@h/d%20b": "postgresql://u:100%25@h/d%20b",
    "postgres://u@h/d#fragment": "postgresql://u@h/d",
}


@pytest.mark.parametrize(("given_url", "expected"), TRANSLATIONS.items())
def test_an_applications_url_becomes_one_of_libpq(given_url: str, expected: str) -> None:
    """Parameters of other drivers are translated or dropped, and libpq itself parses the result."""
    url = normalize(given_url)
    assert expected == url
    assert conninfo_to_dict(url)["dbname"]
    assert normalize(url) == url


REFUSED = {
    "mysql://h/d": "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "host=h dbname=d": "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "jdbc:postgresql://h/d": "leave jdbc: out and write postgresql://USER:PASSWORD@HOST/DATABASE",
    "prisma://accelerate.example/?api_key=x": (
        "an Accelerate URL reaches no server directly: give the database's own postgresql:// URL"
    ),
    "postgres://h/d?conection_limit=5": "did you mean connection_limit?",
    "postgres://h/d?sslmode=requires": "did you mean require?",
    "postgres://h/d?sslaccept=no": "write strict or accept_invalid_certs",
    "postgres://h/d?sslidentity=id.p12": "split it with `openssl pkcs12` and give sslcert= and sslkey=",
    "postgres://u:p@h:port/d": (
        "write HOST:PORT, [IPV6]:PORT, several with commas; percent-encode / ? # in the password"
    ),
    "postgres://u:p@h:99999/d": (
        "write HOST:PORT, [IPV6]:PORT, several with commas; percent-encode / ? # in the password"
    ),
}


@pytest.mark.parametrize(("url", "hint"), REFUSED.items())
def test_a_url_that_cannot_be_understood_is_refused(url: str, hint: str) -> None:
    """What nobody here knows is not guessed: a mistyped sslmode must not turn encryption off."""
    with pytest.raises(MappingError) as caught:
        normalize(url)
    assert hint == caught.value.hint
    assert "u:p" not in str(caught.value)


@given(
    st.text(min_size=1).filter(lambda text: "\0" not in text), st.text(min_size=1).filter(lambda text: "\0" not in text)
)
def test_any_password_and_database_survive(password: str, database: str) -> None:
    """An encoded password of any characters is the same to libpq after normalizing."""
    url = f"postgres://u:{quote(password, safe='')}@h/{quote(database, safe='')}?pgbouncer=true"
    parsed = conninfo_to_dict(normalize(url))
    assert (password, database) == (parsed["password"], parsed["dbname"])


_HIDDEN = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="*"), min_size=1).map(
    lambda text: f"Z{text}Z"
)


@given(_HIDDEN, st.booleans())
def test_no_password_is_shown(password: str, encoded: bool) -> None:  # noqa: FBT001  hypothesis passes it
    """Encoded or not, with `@`, `/`, `:` or `?` in it, a password never gets through `redact`."""
    shown = quote(password, safe="") if encoded else password
    assert shown not in redact(f"postgresql://user:{shown}@host:5432/db?sslmode=require")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:5432/d?sslmode=require", "postgresql://u:***@h:5432/d?sslmode=require"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h1:1,h2:2/d", "postgresql://h1:1,h2:2/d"),
        ("redis://:p@h/0", "redis://:***@h/0"),
        ("postgresql://h/d?user=u&password=p&sslpassword=q", "postgresql://h/d?user=u&password=***&sslpassword=***"),
        ("host=h password='a b\\'c' dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = p dbname=d", "host=h password = *** dbname=d"),
    ],
)
def test_a_redacted_url_says_everything_else(url: str, expected: str) -> None:
    """Where the password's end is clear, host and database stay readable."""
    assert expected == redact(url)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgres://a:p@h/d", "postgresql://b:q@H:5432/d?sslmode=require"),
        ("postgres://h1,h2/d", "postgres://h2:5432,h1/d"),
        ("postgres:///d?host=h", "postgres://h/d"),
        ("postgres://d@h", "postgres://h/d"),
        ("postgres://h/d?port=6432", "postgres://h:6432/d"),
    ],
)
def test_two_urls_of_one_database_are_told(one: str, other: str) -> None:
    """Users, passwords, parameters and the default port do not make another database."""
    assert database_of(normalize(one)) == database_of(normalize(other))


@pytest.mark.parametrize("other", ["postgres://h/e", "postgres://g/d", "postgres://h:6432/d"])
def test_another_name_host_or_port_is_another_database(other: str) -> None:
    """Three databases of one server are three shards."""
    assert database_of(normalize("postgres://h/d")) != database_of(normalize(other))


def test_the_parameters_are_those_of_libpq() -> None:
    """Every parameter that the linked libpq knows is kept; older ones of ours may be gone there."""
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    assert known - LIBPQ_PARAMETERS <= {"authtype", "service", "tty"}

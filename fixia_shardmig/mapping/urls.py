"""Database URLs as applications have them, made into what libpq understands, and shown without their secrets.

Prisma, node-postgres, asyncpg, JDBC and poolers each add parameters of their own, which libpq refuses. Those that say
something libpq can do are translated, those that only tune the other driver are dropped, and what nobody here knows is
refused: a mistyped `sslmode` must not turn encryption off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

from fixia_shardmig.mapping.problems import closest
from fixia_shardmig.model.errors import MappingError

DEFAULT_PORT = "5432"

LIBPQ_PARAMETERS = frozenset(
    re.findall(
        r"\w+",
        """
        application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
        gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
        load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
        oauth_scope options passfile password port replication require_auth requirepeer requiressl scram_client_key
        scram_server_key service servicefile ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
        sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni
        target_session_attrs tcp_user_timeout user
        """,
    )
)
DROPPED_PARAMETERS = frozenset(
    re.findall(
        r"\w+",
        """
        connection_limit max_connection_lifetime max_idle_connection_lifetime pgbouncer pool_timeout
        single_use_connections socket_timeout statement_cache_size prepared_statement_cache_size prepareThreshold
        preparedStatementCacheQueries pool_size max_overflow pool_max_conns pool_min_conns pool_max_conn_lifetime
        pool_max_conn_idle_time default_query_exec_mode uselibpqcompat supa workaround command_timeout
        reWriteBatchedInserts binary_parameters
        """,
    )
)
TRANSLATED_PARAMETERS = frozenset({"schema", "currentSchema", "search_path", "sslaccept", "sslidentity", "ssl"})
SECRET_PARAMETERS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")

_SCHEME = re.compile(r"^(?:postgres|postgresql)(?:\+\w+)?://", re.IGNORECASE)
_PASSWORD = re.compile(r"(://[^:@]*):.*@", re.DOTALL)
_SECRET_PARAMETER = re.compile(
    rf"(?<![A-Za-z_])((?:{'|'.join(SECRET_PARAMETERS)})\s*=\s*)('(?:[^'\\]|\\.)*'?|[^&\s]*)", re.IGNORECASE
)
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST = re.compile(r"^(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]*)(?::(?P<port>\d*))?$")
_PORT_MAX = 65535


def redact(url: str) -> str:
    """Return a URL or a libpq connection string fit to be shown: every password is `***`.

    Where a password holds unescaped characters nobody can tell its end, so everything up to the last `@` is hidden.
    """
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


def normalize(url: str) -> str:
    """Return a URL that libpq and SQLAlchemy accept; raises MappingError without showing the URL."""
    text = url.strip()
    scheme = _SCHEME.match(text)
    if not scheme:
        raise _scheme_error(text)
    rest, _, _fragment = text[scheme.end() :].partition("#")
    location, _, query = rest.partition("?")
    authority, _, database = location.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    parameters = _parameters(query)
    return (
        "postgresql://"
        + _userinfo(userinfo)
        + ",".join(_host(host) for host in hosts.split(","))
        + (f"/{_quoted(database)}" if database else "")
        + _query(_translate(parameters))
    )


def database_of(url: str) -> tuple[str, ...]:
    """Return what names the database of a normalized URL, its hosts, ports and name, to tell two URLs apart.

    Only the text is looked at: two names of one host are not recognized.
    """
    location, _, query = url.removeprefix("postgresql://").partition("?")
    authority, _, database = location.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    parameters = _parameters(query)
    user = unquote(userinfo.partition(":")[0]) or parameters.get("user", "")
    port = parameters.get("port", DEFAULT_PORT)
    places = (_HOST.match(host) for host in (hosts or parameters.get("host", "")).split(","))
    named = sorted(f"{place['host'].lower()}:{place['port'] or port}" for place in places if place)
    return (*named, unquote(database) or parameters.get("dbname", user))


def _scheme_error(text: str) -> MappingError:
    scheme = text.partition(":")[0] if "://" in text or text.startswith("jdbc:") else ""
    if scheme.startswith("prisma"):
        hint = "an Accelerate URL reaches no server directly: give the database's own postgresql:// URL"
    elif scheme == "jdbc":
        hint = "leave jdbc: out and write postgresql://USER:PASSWORD@HOST/DATABASE"
    else:
        hint = "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    return MappingError("not a PostgreSQL URL", hint=hint)


def _quoted(text: str) -> str:
    """Percent-encode a part, whether it came encoded or not."""
    return quote(unquote(text), safe="")


def _userinfo(userinfo: str) -> str:
    if not userinfo:
        return ""
    user, colon, password = userinfo.partition(":")
    return _quoted(user) + (f":{_quoted(password)}" if colon else "") + "@"


def _host(text: str) -> str:
    match = _HOST.match(text)
    port = (match["port"] or "") if match else ""
    if not match or (port and not 0 < int(port) <= _PORT_MAX):
        raise MappingError(
            "host and port of the URL cannot be read",
            hint="write HOST:PORT, [IPV6]:PORT, several with commas; percent-encode / ? # in the password",
        )
    host = match["host"]
    shown = host if host.startswith("[") else quote(unquote(host), safe="*")
    return shown + (f":{port}" if port else "")


def _parameters(query: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _query(parameters: dict[str, str]) -> str:
    encoded = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())
    return f"?{encoded}" if encoded else ""


def _translate(parameters: dict[str, str]) -> dict[str, str]:
    _refuse_unknown(parameters)
    kept = {name: value for name, value in parameters.items() if name in LIBPQ_PARAMETERS}
    _translate_ssl(parameters, kept)
    schemas = (parameters.get(name) for name in ("schema", "currentSchema", "search_path"))
    schema = next((value for value in schemas if value), "public")
    if schema != "public":
        kept["options"] = f"{kept.get('options', '')} -c search_path={_option_value(schema, parameters)}".strip()
    return kept


def _refuse_unknown(names: Iterable[str]) -> None:
    known = LIBPQ_PARAMETERS | DROPPED_PARAMETERS | TRANSLATED_PARAMETERS
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown)
        raise MappingError(f"unknown URL parameter {shown}", hint=closest(unknown[0], known) or "leave it out")


def _option_value(schema: str, parameters: dict[str, str]) -> str:
    """Return a search path for `options`; Prisma's and JDBC's is one exact name, pgx's is a list as SQL has it."""
    exact = "search_path" not in parameters and not re.fullmatch(r"[a-z_][a-z0-9_]*", schema)
    name = '"' + schema.replace('"', '""') + '"' if exact else schema
    return re.sub(r"([\s\\])", r"\\\1", name)


def _translate_ssl(parameters: dict[str, str], kept: dict[str, str]) -> None:
    """Bring Prisma's, node's and asyncpg's words for TLS into libpq's, never to a weaker meaning."""
    if "sslidentity" in parameters:
        raise MappingError(
            "sslidentity is a PKCS12 file, which libpq cannot read",
            hint="split it with `openssl pkcs12` and give sslcert= and sslkey=",
        )
    word = parameters.get("sslmode", parameters.get("ssl", ""))
    mode = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}.get(
        word, word
    )
    if mode and mode not in _SSLMODES:
        raise MappingError(f"unknown sslmode {mode!r}", hint=closest(mode, _SSLMODES))
    if mode:
        kept["sslmode"] = mode
    accept = parameters.get("sslaccept")
    if accept is None:
        return
    if "sslcert" in kept and "sslkey" not in kept:
        kept["sslrootcert"] = kept.pop("sslcert")  # Prisma's sslcert is the certificate of the server's authority
    if accept == "strict" and mode != "disable":
        kept["sslmode"] = "verify-full"
        kept.setdefault("sslrootcert", "system")
    elif accept not in ("strict", "accept_invalid_certs"):
        raise MappingError(f"unknown sslaccept {accept!r}", hint="write strict or accept_invalid_certs")

"""The compose file offers the servers that the mapping and the tests speak of, and nothing to the outside."""

from __future__ import annotations

from typing import Any

import yaml

from tests.house.project import ROOT

COMPOSE = ROOT / "docker-compose.test.yml"
MAPPING = ROOT / "mappings" / "fixia.yaml"


def _load(path: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def test_the_compose_file_has_exactly_the_known_services() -> None:
    """The source, one service a shard of Fixia's mapping, PgBouncer, Redis and Prometheus; no other."""
    shards = set(_load(MAPPING)["shards"])
    assert {"source", *shards, "pgbouncer", "redis", "prometheus"} == set(_load(COMPOSE)["services"])


def test_every_published_port_is_on_the_loopback_address() -> None:
    """No test server can be reached from another machine."""
    ports = [port for service in _load(COMPOSE)["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]


def test_every_config_that_a_service_mounts_is_there() -> None:
    """Services mount only configs that the file defines, and all of these are mounted."""
    compose = _load(COMPOSE)
    mounted = {config["source"] for service in compose["services"].values() for config in service.get("configs", [])}
    assert set(compose["configs"]) == mounted


def test_the_mapping_has_a_rule_for_every_table_of_the_marketplace() -> None:
    """Fixia's 37 tables and Prisma's own: each with one rule, `users` alone decides."""
    tables = _load(MAPPING)["tables"]
    assert (38, ["users"]) == (len(tables), [name for name, rule in tables.items() if "split_by" in rule])

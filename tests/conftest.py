"""Fixtures for every test: they live in tests/fixtures, one file a topic."""

pytest_plugins = (
    "tests.fixtures.fix_clusters",
    "tests.fixtures.fix_market",
    "tests.fixtures.fix_migrations",
    "tests.fixtures.fix_program",
    "tests.fixtures.fix_fleet",
    "tests.fixtures.fix_proxy",
    "tests.fixtures.fix_pgbouncer",
    "tests.fixtures.fix_places",  # after the one it stands on
    "tests.fixtures.fix_followers",  # after the two before it
    "tests.fixtures.fix_replication",
    "tests.fixtures.fix_split",
)

"""The whole story on one machine: PostgreSQL servers of our own, the Fixia marketplace, its live writers, a judge."""

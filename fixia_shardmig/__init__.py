"""shardmig splits one PostgreSQL database, while it serves writes, into several by kind of user."""

__version__ = "0.1.0"

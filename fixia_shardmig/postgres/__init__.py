"""The only door to a server: sessions, catalogs, slots, the replication protocol and what may be retried."""

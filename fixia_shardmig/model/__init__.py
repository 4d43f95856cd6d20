"""The nouns of a migration: names, LSNs, catalogs, phases and errors. Standard library only, no I/O."""

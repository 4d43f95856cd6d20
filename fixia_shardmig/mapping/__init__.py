"""The mapping file: read, checked, explained, proposed. It refuses what it cannot be sure of."""

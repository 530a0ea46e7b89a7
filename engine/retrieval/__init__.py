"""Search over texts."""

"""Guards of addresses, secrets and texts."""

"""Commands about what owners have in the service."""

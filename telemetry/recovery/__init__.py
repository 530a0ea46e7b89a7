"""Recovers executions whose process died and signals that a consumer failed to store."""

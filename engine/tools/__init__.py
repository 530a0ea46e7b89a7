"""Tools that models may call."""

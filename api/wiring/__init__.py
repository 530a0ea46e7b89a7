"""Builds everything that lives long, from the settings."""

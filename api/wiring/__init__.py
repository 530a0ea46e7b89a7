"""Builds all long-lived objects from the settings."""

"""Deletes what is due, or to be forgotten, from all tables."""

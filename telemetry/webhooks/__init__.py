"""Tells endpoints what happened."""

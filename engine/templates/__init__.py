"""Graphs with parameters, and the built-in ones."""

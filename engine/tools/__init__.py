"""Tools for models: the built-in ones, and tools made of Python functions."""

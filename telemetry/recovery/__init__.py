"""Finds what a lost process or a failed consumer left, and puts it right."""

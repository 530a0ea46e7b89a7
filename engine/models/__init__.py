"""Providers of language models, and what their calls cost."""

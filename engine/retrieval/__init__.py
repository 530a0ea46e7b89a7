"""Document search: the retrievers over files, and their text processing."""

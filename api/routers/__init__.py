"""The routes, one file per tag."""

"""The Python client of the service: typed methods, streams that survive lost connections, problems as exceptions."""

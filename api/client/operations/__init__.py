"""The operations of the API as methods. Generated; see docs/generator/client.py."""

"""Compares the books with each other and with Prometheus."""

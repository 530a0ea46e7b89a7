"""Spans and events as the bookkeeper reads them, and as OTLP."""

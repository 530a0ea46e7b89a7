"""Keeps the books: OpenTelemetry SDK, journal, pipeline and the consumers of signals."""

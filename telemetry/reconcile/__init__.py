"""Reconciles the books: compares records, spans, roll-ups and Prometheus counters."""

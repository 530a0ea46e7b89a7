"""Metrics for Prometheus: fed by spans, and read from tables at scrape time."""

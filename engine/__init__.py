"""Runs a workflow and says what happens through the OpenTelemetry API."""

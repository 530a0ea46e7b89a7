"""Sends signals through an OpenTelemetry Collector and receives them back."""

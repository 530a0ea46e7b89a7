"""The way through an OpenTelemetry Collector and back."""

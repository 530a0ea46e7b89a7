"""The OpenTelemetry SDK, set up."""

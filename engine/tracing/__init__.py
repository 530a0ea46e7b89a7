"""Records executions as spans and events through the OpenTelemetry API."""

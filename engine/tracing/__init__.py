"""What an execution says through the OpenTelemetry API."""

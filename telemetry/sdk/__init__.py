"""The OpenTelemetry SDK: providers, exporters, and the conversion of its objects into records."""

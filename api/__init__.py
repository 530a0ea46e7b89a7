"""The service: HTTP, command line and the wiring of engine and telemetry."""

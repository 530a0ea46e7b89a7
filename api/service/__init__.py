"""The service process: its roles, the HTTP servers, background jobs, logs."""

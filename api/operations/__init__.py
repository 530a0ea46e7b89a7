"""What callers may do with an execution."""

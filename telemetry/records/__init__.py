"""The consumer that keeps execution records, span rows and roll-ups."""

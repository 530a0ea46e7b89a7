"""From signals to consumers."""

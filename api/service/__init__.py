"""The roles of a process."""

"""The life of one execution: accepted, begun, run, ended."""

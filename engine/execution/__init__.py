"""The life of one execution: it is accepted, started, run and ended."""

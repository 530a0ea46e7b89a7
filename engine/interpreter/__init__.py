"""From a graph to steps: planned, walked, and kept between steps."""

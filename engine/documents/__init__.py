"""JSON and texts as spanloom reads and frames them."""

"""The tables of what happened, and bulk writes."""

"""Templates: workflow graphs with parameters."""

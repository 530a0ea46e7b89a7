"""Models and prices for tests of workflows."""

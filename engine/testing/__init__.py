"""Scripted models and fixed prices for tests of workflows."""

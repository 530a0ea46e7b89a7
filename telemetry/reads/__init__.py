"""Reads of executions, traces and cost for the API and the command line."""

"""The interpreter: plans graphs, runs the plans on LangGraph, and saves snapshots between nodes."""

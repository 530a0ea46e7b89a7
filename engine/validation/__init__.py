"""The one validator: every rule a graph must pass, in four layers, with one report."""

"""Language models: providers, the offline model, and the prices of calls."""

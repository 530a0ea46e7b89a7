"""CEL expressions and prompts, the two small languages inside a workflow."""

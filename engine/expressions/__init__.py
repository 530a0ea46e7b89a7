"""CEL expressions and prompt templates: what authors write inside a workflow."""

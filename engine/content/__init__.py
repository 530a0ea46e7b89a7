"""Content: what people and models said, in the shape of the GenAI conventions, redacted and bounded."""

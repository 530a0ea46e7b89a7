"""What the database keeps of content, and how it is deleted."""

"""Text, tables and trees that commands print."""

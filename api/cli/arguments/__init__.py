"""The arguments and options of each command, as typer declares them, and their help texts."""

"""The runtime of a node: execution context, state, limits, and calls to models, tools and retrievers."""

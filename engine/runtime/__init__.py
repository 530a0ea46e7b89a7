"""What a running node is given: context, state, limits, and its calls to the world."""

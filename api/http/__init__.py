"""HTTP without routes: middleware, problems, bodies, pagination, event streams."""

"""The parts of HTTP that all routes share: middleware, problems, bodies, responses, pagination, event streams."""

"""Makes signals durable together with the decision they belong to."""

"""Who may call the service: API keys and tokens of an identity provider, their owners and their scopes."""

"""Webhooks: endpoints, their deliveries, and the sender."""

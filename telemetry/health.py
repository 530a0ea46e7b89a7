"""Counters and states of the bookkeeping itself, read by `/metrics` and the readiness check."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class OutboxHealth:
    """Traffic of this process with the Collector; unused in embedded mode."""

    shipped: int = 0
    """Signals that the Collector accepted; a signal that was sent again counts again."""
    failed_posts: int = 0
    is_reachable: bool = True
    """Whether the Collector accepted the last request."""
    confirmed: Counter[str] = field(default_factory=Counter)
    """Signals that came back from the Collector and were stored, by consumer."""
    served_locally: Counter[str] = field(default_factory=Counter)
    """Signals that did not come back in time and were stored locally, by consumer."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Signals and bodies that the receiver refused, by consumer and reason."""
    requests: Counter[int] = field(default_factory=Counter)
    """Requests to the receiver, by status of the response."""


@dataclass(slots=True)
class DeliveryHealth:
    """Webhook deliveries by the sender of this process."""

    attempts_delivered: int = 0
    attempts_failed: int = 0
    delivered: int = 0
    failed: int = 0
    """Deliveries that failed for good."""
    endpoints_disabled: int = 0
    """Endpoints disabled because of their responses."""
    in_flight: int = 0


@dataclass(slots=True)
class LeaseHealth:
    """Lease renewal in this process, and the lost attempts of other processes that it found."""

    renewals: int = 0
    failed_renewals: int = 0
    renewed_at: float | None = None
    """When this process last renewed all its leases, by the monotonic clock."""
    missing: int = 0
    """Leases that could not be renewed because another process had taken them over."""
    lost: Counter[str] = field(default_factory=Counter)
    """Attempts of dead processes that this one found, by outcome of their executions."""

    @property
    def age_seconds(self) -> float:
        """Seconds since the last renewal; 0 before the first."""
        return 0.0 if self.renewed_at is None else time.monotonic() - self.renewed_at


@dataclass(slots=True)
class Health:
    """Counters since the start of the process, and current states."""

    commits: int = 0
    failed_commits: int = 0
    decisions: int = 0
    """Decisions that became durable: acceptances, checkpoints, pauses, releases and finishes."""
    signals: int = 0
    """Spans and events that became durable."""
    fenced: int = 0
    late_signals: int = 0
    """Signals dropped because their execution does not run here."""
    commit_seconds: float = 0.0
    """Time spent in commits, failed ones included."""
    waiting: int = 0
    """Decisions that are not durable yet."""
    running: int = 0
    """Executions that run in this process."""
    is_writable: bool = True
    """Whether the last commit succeeded."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """Signals that became dead letters, by consumer."""
    dead_letters_stored: Counter[str] = field(default_factory=Counter)
    """Dead letters of any process that were stored when this process retried them, by consumer."""
    usage_keys_unread: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Model calls whose usage had a key that nobody reads, by provider and key."""
    rows_pruned: Counter[str] = field(default_factory=Counter)
    """Rows that retention deleted in this process, by table."""
    outbox: OutboxHealth = field(default_factory=OutboxHealth)
    deliveries: DeliveryHealth = field(default_factory=DeliveryHealth)
    leases: LeaseHealth = field(default_factory=LeaseHealth)

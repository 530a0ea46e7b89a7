"""How the bookkeeping itself is doing, as plain numbers that `/metrics` and the readiness check read."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class OutboxHealth:
    """The way through the Collector, as far as this process walks it; nothing happens here in the embedded mode."""

    shipped: int = 0
    """Signals that the Collector took; again where it had to be tried again."""
    failed_posts: int = 0
    is_reachable: bool = True
    """Whether the Collector took the last request."""
    confirmed: Counter[str] = field(default_factory=Counter)
    """Signals that came back to their consumer and were stored."""
    served_locally: Counter[str] = field(default_factory=Counter)
    """Signals that did not come back in time, and were stored without the Collector."""
    requests: Counter[int] = field(default_factory=Counter)
    """Requests to the receiver by the status of their answer."""


@dataclass(slots=True)
class DeliveryHealth:
    """What the sender of this process has done, and is doing."""

    attempts_delivered: int = 0
    attempts_failed: int = 0
    delivered: int = 0
    failed: int = 0
    """Deliveries that were given up."""
    endpoints_disabled: int = 0
    """Endpoints that were disabled because of what they answered."""
    in_flight: int = 0


@dataclass(slots=True)
class LeaseHealth:
    """Whether this process keeps what it runs, and what it found that others had lost."""

    renewals: int = 0
    failed_renewals: int = 0
    renewed_at: float | None = None
    """When the leases of all that runs here were renewed last, by the monotonic clock."""
    missing: int = 0
    """Leases that could not be renewed because another process had taken them away."""
    lost: Counter[str] = field(default_factory=Counter)
    """Attempts without a process that this one found, by what became of their executions."""

    @property
    def age_seconds(self) -> float:
        """Since the last renewal; 0 before the first."""
        return 0.0 if self.renewed_at is None else time.monotonic() - self.renewed_at


@dataclass(slots=True)
class Health:
    """Counters since the start, and what is going on now."""

    commits: int = 0
    failed_commits: int = 0
    decisions: int = 0
    """Acceptances, checkpoints and finishes that became durable."""
    signals: int = 0
    """Spans and events that became durable."""
    fenced: int = 0
    late_signals: int = 0
    """Signals that came for no execution that runs here, and were not stored."""
    commit_seconds: float = 0.0
    """Time spent in commits, failed ones included."""
    waiting: int = 0
    """Decisions that are not durable yet."""
    running: int = 0
    """Executions that were accepted here and have not ended."""
    is_writable: bool = True
    """Whether the last commit succeeded."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """Signals kept aside, by the consumer that could not store them."""
    dead_letters_stored: Counter[str] = field(default_factory=Counter)
    """Signals kept aside, by anybody, that their consumer stored when it was given them again here."""
    outbox: OutboxHealth = field(default_factory=OutboxHealth)
    deliveries: DeliveryHealth = field(default_factory=DeliveryHealth)
    leases: LeaseHealth = field(default_factory=LeaseHealth)

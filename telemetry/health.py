"""How the bookkeeping itself is doing, as plain numbers that `/metrics` and the readiness check read."""

from collections import Counter
from dataclasses import dataclass, field


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

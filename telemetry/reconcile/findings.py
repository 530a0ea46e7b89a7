"""What a comparison of the books finds: differences, each with its likely cause, and the report over all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.database.base import json_text
from engine.tracing.attributes import content_hash
from telemetry.reconcile.bills import ProviderBill
from telemetry.store.bulk import Cell

Value = bool | int | float | str | None

MAX_TEXT = 200
"""Longer texts are cut in a finding."""


class Check(StrEnum):
    """Which two books were compared."""

    RECORD = "record"
    """A record with its spans: their sums, and the span that closes the execution."""
    SPAN = "span"
    """Span rows with the digest that was made when they were stored."""
    CONTROL = "control"
    """A record with the decisions about its execution, and with its result."""
    WEBHOOK = "webhook"
    """Webhook events and deliveries with the record."""
    DEAD_LETTER = "dead_letter"
    """Signals that a consumer could not store."""
    LEFTOVER = "leftover"
    """Rows that only unfinished executions may have."""
    ROLLUP = "rollup"
    """An hour's roll-up row with the sums over its records."""
    DAILY_ROLLUP = "daily_rollup"
    """A day's roll-up row with the sums over its hours."""
    COUNTER = "counter"
    """The increase of a Prometheus counter with the records."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell that differs between two books."""

    check: Check
    subject: str
    """The id of the execution, the key of the roll-up row, or the counter with its labels."""
    column: str
    found: Value
    expected: Value
    """What the other book says: the more detailed one, or the one that decides. Null if that cannot be told."""
    cause: str = ""
    """The likely cause, in one sentence."""
    row: str | None = None
    """The row, if the execution has several: the id of a span, a webhook event or a delivery."""

    @property
    def drift_nano_usd(self) -> int:
        """The difference in cost; 0 for other columns."""
        found, expected = self.found or 0, self.expected or 0
        is_cost = self.column == "cost_nano_usd" and isinstance(found, int) and isinstance(expected, int)
        return abs(int(found) - int(expected)) if is_cost else 0

    def __str__(self) -> str:
        row = f" {self.row}" if self.row else ""
        cause = f"; {self.cause}" if self.cause else ""
        return f"{self.check} {self.subject}{row}: {self.column} is {self.found}, expected {self.expected}{cause}"


@dataclass(frozen=True, slots=True)
class CounterOutcome:
    """Whether a Prometheus counter could be compared; `note` says why not."""

    metric: str
    is_compared: bool
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The result of comparing the books over whole hours of executions, by the time in their ids."""

    since: datetime
    until: datetime
    as_of: datetime
    executions: int
    """How many records of ended executions were compared."""
    rollup_rows: int
    differences: Sequence[Difference] = ()
    counters: Sequence[CounterOutcome] = ()
    unfinished: int = 0
    """Executions that have not ended; only what stands already was compared."""
    in_outbox: int = 0
    """Executions that were not compared, because signals of theirs are still on the way through the Collector."""
    without_digest: int = 0
    """Records that were begun before span rows had digests: a change of their span rows shows in sums alone."""
    by_check: Mapping[str, int] = field(default_factory=dict)
    """How many differences there are of each kind."""
    bills: Sequence[ProviderBill] = ()
    """What providers reported beside what was booked; that it differs is no difference between the books."""

    @property
    def drift_nano_usd(self) -> int:
        """The sum of all differences in cost."""
        return sum(difference.drift_nano_usd for difference in self.differences)


@dataclass(slots=True)
class Findings:
    """Counts and differences so far."""

    executions: int = 0
    rollup_rows: int = 0
    unfinished: int = 0
    in_outbox: int = 0
    without_digest: int = 0
    differences: list[Difference] = field(default_factory=list)


def count_by_check(differences: Sequence[Difference]) -> Mapping[str, int]:
    """How many differences there are of each kind."""
    return dict(Counter(difference.check.value for difference in differences))


def shown(cell: Cell) -> Value:
    """A cell as a finding shows it: times and documents as text, long texts cut."""
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(cell, bytes):
        return content_hash(cell)
    if cell is None or isinstance(cell, int | float):
        return cell
    text = str(cell) if isinstance(cell, str) else json_text(cell)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"

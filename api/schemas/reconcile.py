"""The document about a comparison of the books, for the service and the command line."""

from dataclasses import asdict
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from api.schemas.executions import Answer
from telemetry.reconcile.findings import ReconcileReport


class DifferenceDocument(Answer):
    """One cell that differs between two books; `subject` is an execution id, a roll-up row or a counter."""

    check: Literal[
        "record", "span", "control", "webhook", "dead_letter", "leftover", "rollup", "daily_rollup", "counter"
    ]
    subject: str
    row: str | None
    """The row, if the execution has several: the id of a span, a webhook event or a delivery."""
    column: str
    found: bool | int | float | str | None
    expected: bool | int | float | str | None
    """What the other book says; null also if that cannot be told."""
    cause: str
    """The likely cause."""
    drift_nano_usd: int


class CounterDocument(Answer):
    """Whether a Prometheus counter could be compared; if not, `note` says why."""

    metric: str
    is_compared: bool
    note: str | None


class BillDocument(Answer):
    """Calls of one model whose cost the provider reported, beside what was booked."""

    provider: str
    model: str
    calls: int
    reported_nano_usd: int
    booked_nano_usd: int
    difference_nano_usd: int


class ReconcileDocument(Answer):
    """A comparison of the books over whole hours; `differences` holds the first 200 of `differences_total`.

    `bills` is what providers reported as the cost of their calls; that it differs is no difference between the books.
    """

    since: AwareDatetime = Field(serialization_alias="from")
    until: AwareDatetime = Field(serialization_alias="to")
    as_of: AwareDatetime
    executions: int
    unfinished: int
    """Executions that have not ended; only what stands already was compared."""
    in_outbox: int
    """Executions that were not compared: signals of theirs are still on the way through the Collector."""
    without_digest: int
    """Records from before span rows had digests: a change of their span rows shows in sums alone."""
    rollup_rows: int
    differences_total: int
    drift_nano_usd: int
    differences: list[DifferenceDocument]
    counters: list[CounterDocument]
    bills: list[BillDocument]

    @classmethod
    def of(cls, report: ReconcileReport, differences_total: int | None = None, drift: int | None = None) -> Self:
        """The report as a document; the totals are given if the report does not hold all differences."""
        return cls(
            since=report.since,
            until=report.until,
            as_of=report.as_of,
            executions=report.executions,
            unfinished=report.unfinished,
            in_outbox=report.in_outbox,
            without_digest=report.without_digest,
            rollup_rows=report.rollup_rows,
            differences_total=len(report.differences) if differences_total is None else differences_total,
            drift_nano_usd=report.drift_nano_usd if drift is None else drift,
            differences=[
                DifferenceDocument.model_validate(asdict(one) | {"drift_nano_usd": one.drift_nano_usd})
                for one in report.differences
            ],
            bills=[
                BillDocument.model_validate(asdict(bill) | {"difference_nano_usd": bill.difference_nano_usd})
                for bill in report.bills
            ],
            counters=[CounterDocument.model_validate(asdict(one)) for one in report.counters],
        )


class ReconcilePage(Answer):
    """A page of comparisons, newest first; `next_cursor` is null on the last page."""

    items: list[ReconcileDocument]
    next_cursor: str | None

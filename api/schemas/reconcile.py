"""The document about a comparison of the books, for the service and the command line."""

from dataclasses import asdict
from typing import Literal, Self

from pydantic import AwareDatetime, Field

from api.schemas.executions import Answer
from telemetry.reconcile.compare import ReconcileReport


class DifferenceDocument(Answer):
    """One number that differs between two books; `subject` is an execution id, a roll-up row or a counter."""

    check: Literal["record", "rollup", "daily_rollup", "counter"]
    subject: str
    column: str
    found: int | None
    expected: int | None
    drift_nano_usd: int


class CounterDocument(Answer):
    """Whether a Prometheus counter could be compared; if not, `note` says why."""

    metric: str
    is_compared: bool
    note: str | None


class ReconcileDocument(Answer):
    """A comparison of the books over whole hours; `differences` holds the first 200 of `differences_total`."""

    since: AwareDatetime = Field(serialization_alias="from")
    until: AwareDatetime = Field(serialization_alias="to")
    as_of: AwareDatetime
    executions: int
    rollup_rows: int
    differences_total: int
    drift_nano_usd: int
    differences: list[DifferenceDocument]
    counters: list[CounterDocument]

    @classmethod
    def of(cls, report: ReconcileReport, differences_total: int | None = None, drift: int | None = None) -> Self:
        """The report as a document; the totals are given if the report does not hold all differences."""
        return cls(
            since=report.since,
            until=report.until,
            as_of=report.as_of,
            executions=report.executions,
            rollup_rows=report.rollup_rows,
            differences_total=len(report.differences) if differences_total is None else differences_total,
            drift_nano_usd=report.drift_nano_usd if drift is None else drift,
            differences=[
                DifferenceDocument.model_validate(asdict(one) | {"drift_nano_usd": one.drift_nano_usd})
                for one in report.differences
            ],
            counters=[CounterDocument.model_validate(asdict(one)) for one in report.counters],
        )


class ReconcilePage(Answer):
    """A page of comparisons, newest first; `next_cursor` is null on the last page."""

    items: list[ReconcileDocument]
    next_cursor: str | None

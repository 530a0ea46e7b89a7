"""`spanloom reconcile`: compare spans, records, decisions, webhooks, roll-ups and Prometheus."""

from datetime import UTC, datetime, timedelta

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural, usd
from api.cli.rendering.plain import plain
from api.schemas.reconcile import ReconcileDocument
from api.settings import Settings
from api.wiring.database import open_database
from telemetry.reconcile.bills import ProviderBill
from telemetry.reconcile.findings import ReconcileReport
from telemetry.reconcile.job import reconcile

_DAY = timedelta(days=1)
_SHOWN = 50
_ALL = "Prometheus counters"


def compare(since: datetime | None, until: datetime | None, *, as_json: bool) -> int:
    """Compare and print the differences; 1 if there are any."""
    settings = terminal.begin()
    end = until or datetime.now(UTC)
    start = since or end - _DAY
    if start >= end:
        wrong_use("--from must be before --to.")
    check_exists(settings)
    report = interrupts.run(_report(settings, start, end))
    if as_json:
        terminal.show_json(ReconcileDocument.of(report).model_dump(mode="json"))
    else:
        print("\n".join(sentences(report)))
    return BAD_NEWS if report.differences else DONE


async def _report(settings: Settings, since: datetime, until: datetime) -> ReconcileReport:
    async with open_database(settings) as database:
        return await reconcile(database, since, until, prometheus_url=settings.prometheus_url)


def sentences(report: ReconcileReport) -> list[str]:
    """The report as lines of text."""
    time = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    compared = (
        f"Compared {time}: {plural(report.executions, 'execution')}, {plural(report.rollup_rows, 'roll-up row')}."
    )
    notes = [
        note.format(plural(count, "execution"))
        for count, note in (
            (report.unfinished, "{} not ended: compared as far as they have come."),
            (report.in_outbox, "{} not compared: signals of theirs are on the way through the Collector."),
            (report.without_digest, "{} without a digest: a change of their span rows shows in sums alone."),
        )
        if count
    ]
    counters = [
        f"{_ALL if counter.metric == 'all' else counter.metric}: "
        + ("compared" if counter.is_compared else f"not compared, {counter.note}")
        for counter in report.counters
    ]
    bills = plain([_bill(bill) for bill in report.bills if bill.difference_nano_usd][:_SHOWN])
    if not report.differences:
        return [compared, *notes, *counters, *bills, "The books agree."]
    more = len(report.differences) - _SHOWN
    return [
        compared,
        *notes,
        *counters,
        *bills,
        *plain([str(difference) for difference in report.differences[:_SHOWN]]),
        *([f"… and {more} more; --json prints all"] if more > 0 else []),
        f"The books disagree: {plural(len(report.differences), 'difference')}, {usd(report.drift_nano_usd)}.",
    ]


def _bill(bill: ProviderBill) -> str:
    more = bill.difference_nano_usd > 0
    return (
        f"{bill.provider} {bill.model}: the provider reported {usd(bill.reported_nano_usd)} for "
        f"{plural(bill.calls, 'call')}, {usd(abs(bill.difference_nano_usd))} {'more' if more else 'less'} than booked"
    )

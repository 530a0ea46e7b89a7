"""The consumer that writes the records (execution rows, span rows, roll-ups and scores) from signals in any order.

An execution row holds the values of its highest event by (attempt, rank, seq), and a terminal row is final. Span rows
are inserted once; repeated ones are ignored. Only the rows that RETURNING reports as stored are added to roll-ups,
seals and digests, so signals may arrive twice, late or early.
"""

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.resources import CostSource
from engine.tracing import semconv
from telemetry.records.digest import NO_SPANS, PRIME, Digest, digest_of
from telemetry.records.rollups import CallDelta, Cost, CountedExecution, Deltas, EndDelta
from telemetry.records.rows import (
    EXECUTION_COLUMNS,
    PLACEHOLDER_COLUMNS,
    RANK_TERMINAL,
    SPAN_COLUMNS,
    changes_record,
    execution_row,
    placeholder_row,
    rank_of,
    span_row,
    status_of,
)
from telemetry.records.scores import store_scores
from telemetry.records.totals import is_recorded
from telemetry.signals.records import Batch, EventRecord, Identity, Kind, SpanRecord, time_of
from telemetry.store.bulk import BulkInsert, Row
from telemetry.store.tables import DIGEST_COLUMNS, executions, spans


class Records:
    """Stores a batch of signals as rows."""

    name = "records"

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store the signals that are not stored yet, and add them to the roll-ups. Raises `BadSignal`."""
        deltas = Deltas()
        recorded = _recorded(batch.spans)
        new_spans = await _store_spans(connection, recorded, deltas)
        updated = await _store_events(connection, _highest(batch.events), new_spans, deltas)
        uncounted = {id_: digest for id_, digest in new_spans.items() if id_ not in updated}
        await _count_spans(connection, recorded, uncounted)
        await store_scores(connection, batch.events)
        await deltas.write(connection)


def _recorded(batch: Iterable[SpanRecord]) -> dict[tuple[str, str], SpanRecord]:
    """The spans that the record level stores, each once, by execution and span id."""
    return {(span.identity.execution_id, span.span_id): span for span in batch if is_recorded(span)}


async def _store_spans(
    connection: AsyncConnection, recorded: dict[tuple[str, str], SpanRecord], deltas: Deltas
) -> dict[str, Digest]:
    """Insert the spans; return the digest of the new ones by execution."""
    digests: dict[tuple[str, str], Digest] = {}

    def row_of(key: tuple[str, str]) -> Row:
        row = span_row(recorded[key])
        digests[key] = digest_of(row)
        return row

    new_spans: dict[str, Digest] = {}
    for execution_id, span_id in await _INSERT_SPANS.run_each(connection, sorted(recorded), row_of):
        key = execution_id, span_id
        new_spans[execution_id] = new_spans.get(execution_id, NO_SPANS).plus(digests[key])
        if recorded[key].kind is Kind.MODEL:
            deltas.add_call(_call(recorded[key]))
    return new_spans


async def _store_events(
    connection: AsyncConnection, highest: dict[str, EventRecord], new_spans: dict[str, Digest], deltas: Deltas
) -> set[str]:
    """Write the row of each execution with the digest of its new spans; return the ids of the rows written."""
    rows = [execution_row(highest[id_], new_spans.get(id_, NO_SPANS)) for id_ in sorted(highest)]
    updated = {str(id_) for (id_,) in await _UPSERT_EXECUTIONS.run(connection, rows)}
    for execution_id in updated:
        event = highest[execution_id]
        if rank_of(event) == RANK_TERMINAL:
            duration_ms = event.integer(semconv.DURATION_MS) or 0
            deltas.add_end(
                EndDelta(
                    _counted(event.identity),
                    status_of(event),
                    duration_ms,
                    time_of(event.at_ns),
                    event.text(semconv.ERROR_CLASS),
                    _cost(event),
                )
            )
    return updated


async def _count_spans(
    connection: AsyncConnection, recorded: dict[tuple[str, str], SpanRecord], new_spans: dict[str, Digest]
) -> None:
    """Add to the digests of executions without a new event; one without any event gets a row from its spans."""
    identities = {
        execution_id: span.identity for (execution_id, _), span in recorded.items() if execution_id in new_spans
    }
    rows = [placeholder_row(identities[id_], new) for id_, new in sorted(new_spans.items())]
    await _COUNT_SPANS.run(connection, rows)


def _highest(events: Iterable[EventRecord]) -> dict[str, EventRecord]:
    """The event that decides the row of each execution."""
    highest: dict[str, EventRecord] = {}
    for event in events:
        if changes_record(event):
            known = highest.get(event.identity.execution_id)
            if known is None or _order(event) > _order(known):
                highest[event.identity.execution_id] = event
    return highest


def _order(event: EventRecord) -> tuple[bool, int, int, int]:
    rank = rank_of(event)
    return (rank == RANK_TERMINAL, event.identity.attempt, rank, event.seq)


def _counted(identity: Identity) -> CountedExecution:
    return CountedExecution(
        identity.execution_id,
        identity.owner,
        identity.workflow_name,
        identity.workflow_source,
        identity.template_id,
        identity.template_version,
    )


def _cost(event: EventRecord) -> Cost:
    return Cost(
        event.integer(semconv.COST_NANO_USD),
        event.integer(semconv.UNFINISHED_CALLS) or 0,
        event.integer(semconv.COST_UPPER_NANO_USD),
    )


def _call(span: SpanRecord) -> CallDelta:
    return CallDelta(
        _counted(span.identity),
        span.text(semconv.PROVIDER),
        span.text(semconv.REQUEST_MODEL),
        [span.integer(key) for key in semconv.CALL_TOKENS.values()],
        span.integer(semconv.COST_NANO_USD),
        span.text(semconv.CALL_WASTE) is not None,
        span.text(semconv.ERROR_TYPE) is not None,
        assumed=span.text(semconv.COST_SOURCE) == CostSource.ASSUMED,
        provider_nano_usd=span.integer(semconv.PROVIDER_COST_NANO_USD),
    )


_INSERT_SPANS = BulkInsert(
    spans,
    SPAN_COLUMNS,
    "ON CONFLICT (execution_id, span_id) DO NOTHING",
    ("execution_id", "span_id"),
    mostly_new=True,
)
_COUNTS = ("spans_stored", DIGEST_COLUMNS[0])
_COUNT = ", ".join(
    [f"{name} = executions.{name} + excluded.{name}" for name in _COUNTS]
    + [f"{name} = (executions.{name} + excluded.{name}) % {PRIME}" for name in DIGEST_COLUMNS[1:]]
)
"""Adds new spans to a record; the digest of a record that has none stays null."""

_REPLACED = [name for name in EXECUTION_COLUMNS if name not in ("id", "spans_stored", *DIGEST_COLUMNS)]
_UPSERT_EXECUTIONS = BulkInsert(
    executions,
    EXECUTION_COLUMNS,
    "ON CONFLICT (id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _REPLACED)
    + f", {_COUNT}"
    + f" WHERE executions.rank < {RANK_TERMINAL} AND (excluded.attempt, excluded.rank, excluded.seq)"
    + " > (executions.attempt, executions.rank, executions.seq)",
    ("id",),
)
_COUNT_SPANS = BulkInsert(
    executions,
    PLACEHOLDER_COLUMNS,
    f"ON CONFLICT (id) DO UPDATE SET {_COUNT}",
)

"""Stores scores from their events. Of several for the same execution, name and source the latest one counts."""

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.tracing import semconv
from engine.tracing.semconv import Event
from telemetry.signals.records import BadSignal, EventRecord, time_of
from telemetry.store.bulk import BulkInsert, Row
from telemetry.store.score_tables import execution_scores

_COLUMNS = tuple(column.name for column in execution_scores.c)
_KEY = ("execution_id", "name", "source")
_Key = tuple[str, str, str]


async def store_scores(connection: AsyncConnection, events: Iterable[EventRecord]) -> None:
    """Store the scores among the events. Raises `BadSignal`."""
    newest: dict[_Key, EventRecord] = {}
    for event in events:
        if event.name == Event.EVALUATION_RESULT.value:
            key = event.identity.execution_id, _text(event, semconv.EVALUATION_NAME), _text(event, semconv.SCORE_SOURCE)
            if key not in newest or _order(newest[key]) < _order(event):
                newest[key] = event
    if newest:
        await _UPSERT.run(connection, [_row(key, newest[key]) for key in sorted(newest)])


def _order(event: EventRecord) -> tuple[int, str]:
    return event.at_ns, event.id


def _text(event: EventRecord, key: str) -> str:
    text = event.text(key)
    if text is None:
        raise BadSignal(f"{key} is missing")
    return text


def _row(key: _Key, event: EventRecord) -> Row:
    """The cells, in the order of the table's columns."""
    identity = event.identity
    return (
        *key,
        identity.owner,
        identity.workflow_name,
        identity.workflow_source,
        identity.template_id,
        identity.template_version,
        event.number(semconv.EVALUATION_SCORE_VALUE),
        event.text(semconv.EVALUATION_SCORE_LABEL),
        time_of(event.at_ns),
        event.id,
    )


_UPSERT = BulkInsert(
    execution_scores,
    _COLUMNS,
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in _KEY)
    + " WHERE (excluded.scored_at, excluded.event_id) > (execution_scores.scored_at, execution_scores.event_id)",
)

"""The consumer that turns events into deliveries: one per event and endpoint, even if an event comes repeatedly."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import database_time
from telemetry.signals.records import EPOCH, Batch, EventRecord, time_of
from telemetry.store.bulk import BulkInsert, Cell
from telemetry.store.tables import webhook_deliveries, webhook_endpoints, webhook_events
from telemetry.webhooks.payloads import TYPES, TraceLink, body_of

_NAMESPACE = uuid5(NAMESPACE_URL, "urn:spanloom:delivery")
_TYPES = frozenset(TYPES)


class Webhooks:
    """Stores a batch of events as deliveries for a sender."""

    name = "webhooks"

    def __init__(self, trace_link: TraceLink) -> None:
        self._trace_link = trace_link

    async def apply(self, connection: AsyncConnection, batch: Batch) -> None:
        """Store new events and deliveries. An event that only disabled endpoints subscribe to gets no delivery.

        Raises `BadSignal`.
        """
        events = {event.id: event for event in batch.events if event.name in _TYPES}
        if not events:
            return
        subscriptions = await _subscriptions(connection, {event.identity.owner for event in events.values()})
        asked = {id_: list(_asking(events[id_], subscriptions)) for id_ in sorted(events)}
        rows = [_event_row(events[id_], self._trace_link) for id_, asking in asked.items() if asking]
        await insert_events(connection, rows)
        now = await database_time(connection) if rows else EPOCH
        due = [
            _delivery(events[id_], one.endpoint_id, now)
            for id_, asking in asked.items()
            for one in asking
            if one.is_active
        ]
        await insert_deliveries(connection, due)


@dataclass(frozen=True, slots=True)
class Subscription:
    """The events that an endpoint subscribes to."""

    endpoint_id: str
    owner: str
    events: frozenset[str]
    templates: frozenset[str] | None
    """Ids or keys; null is every execution."""
    is_active: bool

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From a row of `webhook_endpoints`."""
        templates = None if row["templates"] is None else frozenset(row["templates"])
        return cls(row["id"], row["owner_id"], frozenset(row["events"]), templates, row["status"] == "active")

    def wants(self, event_type: str, source: str, workflow_name: str, template_id: str | None) -> bool:
        """Whether the endpoint subscribes to this event of this execution."""
        if event_type not in self.events:
            return False
        if self.templates is None:
            return True
        return template_id in self.templates or (source == "template" and workflow_name in self.templates)


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery that is due at once."""

    event_id: str
    endpoint_id: str
    owner: str
    execution_id: str | None
    event_type: str
    now: datetime
    """By the database's clock."""

    @property
    def id(self) -> str:
        """The same for the same event and endpoint."""
        return str(uuid5(_NAMESPACE, f"{self.event_id}/{self.endpoint_id}"))


EventRow = tuple[str, str, str | None, str, datetime, bytes]
"""Event id, owner, execution, type, time, body."""


async def insert_events(connection: AsyncConnection, rows: Collection[EventRow]) -> None:
    """Insert the events; existing rows keep their body."""
    await _INSERT_EVENTS.run(connection, sorted(rows))


async def insert_deliveries(connection: AsyncConnection, deliveries: Collection[NewDelivery]) -> int:
    """Insert the deliveries that do not exist yet; returns how many that were."""
    rows = [_delivery_row(one) for one in sorted(deliveries, key=lambda one: (one.endpoint_id, one.event_id))]
    return len(await _INSERT_DELIVERIES.run(connection, rows))


async def _subscriptions(connection: AsyncConnection, owners: Collection[str]) -> list[Subscription]:
    c = webhook_endpoints.c
    statement = select(c.id, c.owner_id, c.events, c.templates, c.status).where(c.owner_id.in_(sorted(owners)))
    return [Subscription.of(row) for row in (await connection.execute(statement)).mappings()]


def _asking(event: EventRecord, subscriptions: Iterable[Subscription]) -> Iterable[Subscription]:
    identity = event.identity
    for one in subscriptions:
        if one.owner == identity.owner and one.wants(
            event.name, identity.workflow_source, identity.workflow_name, identity.template_id
        ):
            yield one


def _event_row(event: EventRecord, trace_link: TraceLink) -> EventRow:
    at = time_of(event.at_ns)
    identity = event.identity
    return event.id, identity.owner, identity.execution_id, event.name, at, body_of(event, trace_link)


def _delivery(event: EventRecord, endpoint_id: str, now: datetime) -> NewDelivery:
    identity = event.identity
    return NewDelivery(event.id, endpoint_id, identity.owner, identity.execution_id, event.name, now)


def _delivery_row(one: NewDelivery) -> tuple[Cell, ...]:
    who = (one.id, one.event_id, one.endpoint_id, one.owner, one.execution_id, one.event_type)
    return (*who, "pending", 0, 0, one.now, one.now)


_INSERT_EVENTS = BulkInsert(
    webhook_events,
    ("event_id", "owner_id", "execution_id", "event_type", "at", "body"),
    "ON CONFLICT (event_id) DO NOTHING",
)
_INSERT_DELIVERIES = BulkInsert(
    webhook_deliveries,
    (
        "id",
        "event_id",
        "endpoint_id",
        "owner_id",
        "execution_id",
        "event_type",
        "state",
        "attempts",
        "step",
        "next_attempt_at",
        "created_at",
    ),
    "ON CONFLICT (event_id, endpoint_id) DO NOTHING",
    ("id",),
)

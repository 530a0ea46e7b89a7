"""Deliveries to endpoints: reading them with their attempts, sending them again, sending a test.

Every function takes the owner. A delivery that is sent again has the same id and the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal

import orjson
from sqlalchemy import ColumnElement, and_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import database_time
from engine.errors import NotFound
from telemetry.store.tables import webhook_attempts, webhook_deliveries, webhook_events
from telemetry.webhooks.consumer import (
    NewDelivery,
    Subscription,
    insert_deliveries,
    insert_events,
)
from telemetry.webhooks.endpoints import Endpoint, EndpointDisabled, WebhookCursor, get
from telemetry.webhooks.payloads import TEST, body_of_test

State = Literal["pending", "delivered", "failed"]
STATES: tuple[State, ...] = ("pending", "delivered", "failed")
_EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one endpoint."""

    id: str
    event_id: str
    endpoint_id: str
    execution_id: str | None
    event_type: str
    state: State
    attempts: int
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: the status of the response and the start of its body, or why there was no response."""

    number: int
    at: datetime
    duration_ms: int
    http_status: int | None
    error: str | None
    reply: str | None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries; null filters nothing. `since` and `until` bound `created_at`, half-open."""

    endpoint: str | None = None
    state: State | None = None
    event_type: str | None = None
    execution_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_deliveries(
    connection: AsyncConnection,
    owner: str,
    wanted: DeliveryFilter,
    *,
    limit: int = 50,
    after: WebhookCursor | None = None,
) -> tuple[list[Delivery], WebhookCursor | None]:
    """A page of deliveries, newest first, and the cursor of the next page; null on the last page."""
    statement = select(*_COLUMNS).where(_d.owner_id == owner, *_conditions(wanted))
    if after is not None:
        end = tuple_(after.created_at, after.id, types=[_d.created_at.type, _d.id.type])
        statement = statement.where(tuple_(_d.created_at, _d.id) < end)
    statement = statement.order_by(_d.created_at.desc(), _d.id.desc()).limit(limit + 1)
    found = [Delivery(*row) for row in await connection.execute(statement)]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], WebhookCursor(last.created_at, last.id) if last else None


async def get_delivery(connection: AsyncConnection, owner: str, delivery_id: str) -> Delivery:
    """The delivery. Raises `NotFound`."""
    statement = select(*_COLUMNS).where(_d.owner_id == owner, _d.id == delivery_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound.of("delivery", delivery_id)
    return Delivery(*row)


async def find_delivery_ids(connection: AsyncConnection, owner: str, beginning: str, *, limit: int) -> list[str]:
    """Ids of deliveries that start with a prefix."""
    statement = select(_d.id).where(_d.owner_id == owner, _d.id.startswith(beginning, autoescape=True))
    return list((await connection.execute(statement.order_by(_d.id).limit(limit))).scalars())


async def read_attempts(connection: AsyncConnection, delivery: Delivery) -> list[Attempt]:
    """Every attempt, in order."""
    columns = [webhook_attempts.c[field.name] for field in fields(Attempt)]
    statement = select(*columns).where(webhook_attempts.c.delivery_id == delivery.id)
    return [Attempt(*row) for row in await connection.execute(statement.order_by(webhook_attempts.c.number))]


async def send_test(connection: AsyncConnection, owner: str, endpoint_id: str) -> Delivery:
    """Create a `webhook.test` delivery that is due at once. Raises `NotFound`, `EndpointDisabled`."""
    await _active(connection, owner, endpoint_id)
    now = await database_time(connection)
    event_id = str(uuid7())
    await insert_events(connection, [(event_id, owner, None, TEST, now, body_of_test(endpoint_id, now))])
    delivery = NewDelivery(event_id, endpoint_id, owner, None, TEST, now)
    await insert_deliveries(connection, [delivery])
    return await get_delivery(connection, owner, delivery.id)


async def redeliver(connection: AsyncConnection, owner: str, delivery_id: str) -> Delivery:
    """Send a delivery again, restarting its schedule. Raises `NotFound`, `EndpointDisabled`."""
    found = await get_delivery(connection, owner, delivery_id)
    await _active(connection, owner, found.endpoint_id)
    await _make_due(connection, [found.id], await database_time(connection))
    return await get_delivery(connection, owner, delivery_id)


async def redeliver_range(
    connection: AsyncConnection,
    owner: str,
    endpoint_id: str,
    since: datetime,
    until: datetime,
    only: Literal["failed", "all"],
) -> int:
    """Send the failed deliveries, or all, of the events in a time range (half-open) again; returns how many.

    Events that have no delivery, because the endpoint was disabled, are sent in either case. Raises `NotFound`,
    `EndpointDisabled`.
    """
    endpoint = await _active(connection, owner, endpoint_id)
    now = await database_time(connection)
    count = 0
    after: tuple[datetime, str] | None = None
    while events := await _events(connection, endpoint, since, until, after):
        after = events[-1].at, events[-1].event_id
        again = [one.delivery_id for one in events if one.delivery_id and (only == "all" or one.state == "failed")]
        missed = [one for one in events if one.delivery_id is None and one.is_subscribed(endpoint)]
        await _make_due(connection, again, now)
        deliveries = [
            NewDelivery(one.event_id, endpoint_id, owner, one.execution_id, one.event_type, now) for one in missed
        ]
        count += len(again) + await insert_deliveries(connection, deliveries)
    return count


async def _active(connection: AsyncConnection, owner: str, endpoint_id: str) -> Endpoint:
    endpoint = await get(connection, owner, endpoint_id, lock=True)
    if endpoint.status == "disabled":
        raise EndpointDisabled
    return endpoint


async def _make_due(connection: AsyncConnection, delivery_ids: Sequence[str], now: datetime) -> None:
    """Restart the schedule of deliveries; those in flight are left to their sender."""
    await connection.execute(
        update(webhook_deliveries)
        .where(_d.id.in_(sorted(delivery_ids)), _d.claim.is_(None))
        .values(state="pending", step=0, next_attempt_at=now, ended_at=None)
    )


@dataclass(frozen=True, slots=True)
class _Event:
    """An event and its delivery to one endpoint; `delivery_id` is null if there is none."""

    event_id: str
    execution_id: str | None
    event_type: str
    at: datetime
    body: bytes
    delivery_id: str | None
    state: State | None

    def is_subscribed(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint subscribes to it now."""
        templates = None if endpoint.templates is None else frozenset(endpoint.templates)
        subscription = Subscription(endpoint.id, endpoint.owner, frozenset(endpoint.events), templates, is_active=True)
        data = orjson.loads(self.body)["data"]
        return subscription.wants(self.event_type, data["source"], data["workflow_name"], data["template_id"])


async def _events(
    connection: AsyncConnection,
    endpoint: Endpoint,
    since: datetime,
    until: datetime,
    after: tuple[datetime, str] | None,
) -> list[_Event]:
    """A page of the owner's events in the time range, oldest first."""
    mine = and_(_d.event_id == _v.event_id, _d.endpoint_id == endpoint.id)
    statement = (
        select(_v.event_id, _v.execution_id, _v.event_type, _v.at, _v.body, _d.id, _d.state)
        .join_from(webhook_events, webhook_deliveries, mine, isouter=True)
        .where(_v.owner_id == endpoint.owner, _v.at >= since, _v.at < until, _v.event_type != TEST)
    )
    if after is not None:
        end = tuple_(*after, types=[_v.at.type, _v.event_id.type])
        statement = statement.where(tuple_(_v.at, _v.event_id) > end)
    rows = await connection.execute(statement.order_by(_v.at, _v.event_id).limit(_EVENTS_AT_ONCE))
    return [_Event(*row) for row in rows]


def _conditions(wanted: DeliveryFilter) -> list[ColumnElement[bool]]:
    equal = {
        _d.endpoint_id: wanted.endpoint,
        _d.state: wanted.state,
        _d.event_type: wanted.event_type,
        _d.execution_id: wanted.execution_id,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if wanted.since is not None:
        conditions.append(_d.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(_d.created_at < wanted.until)
    return conditions


_d = webhook_deliveries.c
_v = webhook_events.c
_COLUMNS = [_d[field.name] for field in fields(Delivery)]

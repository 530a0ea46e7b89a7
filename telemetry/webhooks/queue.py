"""The queue of deliveries: senders claim due ones, and the outcome of each attempt is recorded in one place.

A claim is a lease by the database's clock: a sender that dies loses it, and the delivery is due again. Endpoint rows
are locked before delivery rows, in the order of their ids; on PostgreSQL a claim skips rows that others have locked.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import Exists, exists, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import database_time
from telemetry.store.tables import webhook_attempts, webhook_deliveries, webhook_endpoints, webhook_events
from telemetry.webhooks.endpoints import DisabledReason, disable, fail_open

SCHEDULE_SECONDS = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
DISABLE_HOURS = 120
DISABLE_FAILURES = 10
IN_FLIGHT = 4
IN_FLIGHT_WHEN_FAILING = 1
FAILING_AFTER = 5
MAX_RETRY_AFTER_SECONDS = 86_400
JITTER = 0.2
UNSENT_SECONDS = 60.0
"""The wait before a delivery is tried again that this service could not even attempt."""

_ENDPOINTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and for how long a delivery is attempted."""

    schedule_seconds: Sequence[float] = SCHEDULE_SECONDS
    """The wait before each attempt; the first is made at once."""
    disable_hours: float = DISABLE_HOURS
    lease_seconds: float = 60.0

    def wait_seconds(self, step: int, retry_after_seconds: float | None) -> float | None:
        """The wait before this step of the schedule; null after the last step."""
        if step >= len(self.schedule_seconds):
            return None
        wait = self.schedule_seconds[step] * random.uniform(1 - JITTER, 1 + JITTER)
        return max(wait, min(retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS))


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this sender may send until its claim ends. Secrets are sealed."""

    delivery_id: str
    claim: str
    event_id: str
    endpoint_id: str
    body: bytes
    url: str
    """The URL to send to, or as it is shown if `sealed_url` holds it."""
    sealed_url: str | None
    sealed_headers: str | None
    sealed_secrets: tuple[str, ...]
    """Newest first; two during a rotation."""
    at: datetime
    """Now, by the database's clock: receivers refuse signatures whose time is off."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt. Without a response `http_status` is null and `error` says why."""

    delivery_id: str
    claim: str
    at: datetime
    duration_ms: int
    http_status: int | None
    error: str | None
    reply: str | None
    retry_after_seconds: float | None = None

    @property
    def is_delivered(self) -> bool:
        """Only 2xx is success."""
        return self.http_status is not None and 200 <= self.http_status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint answered 410: it accepts no more webhooks."""
        return self.http_status == 410


@dataclass(slots=True)
class Settled:
    """Counts of one transaction: attempts and deliveries by outcome, and disabled endpoints."""

    attempts_delivered: int = 0
    attempts_failed: int = 0
    delivered: int = 0
    failed: int = 0
    disabled: int = 0

    def count(self, outcome: Outcome, delivery: "_Delivery") -> None:
        """Count one outcome and the resulting state of its delivery."""
        self.attempts_delivered += outcome.is_delivered
        self.attempts_failed += not outcome.is_delivered
        self.delivered += delivery.state == "delivered"
        self.failed += delivery.state == "failed"


async def is_anything_due(connection: AsyncConnection) -> bool:
    """Whether any delivery is due."""
    now = await database_time(connection)
    return (await connection.execute(select(_e.id).where(_has_due_delivery(now, None)).limit(1))).first() is not None


@dataclass(frozen=True, slots=True)
class QueueState:
    """The length and the lag of the queue."""

    pending: int = 0
    lag_seconds: float = 0.0
    """How long the most overdue delivery has been due."""
    endpoints_active: int = 0
    endpoints_disabled: int = 0


async def read_queue(connection: AsyncConnection) -> QueueState:
    """The queue of all owners."""
    now = await database_time(connection)
    pending = select(func.count(), func.min(_d.next_attempt_at)).where(_d.state == "pending")
    count, oldest = (await connection.execute(pending)).one()
    by_status = select(_e.status, func.count()).group_by(_e.status)
    endpoints: dict[str, int] = {row[0]: row[1] for row in await connection.execute(by_status)}
    lag = max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0
    return QueueState(count, lag, endpoints.get("active", 0), endpoints.get("disabled", 0))


async def claim(connection: AsyncConnection, policy: Policy, limit: int, *, only: str | None = None) -> list[Claimed]:
    """Claim up to `limit` due deliveries, the most overdue first; `only` restricts it to one delivery."""
    now = await database_time(connection)
    endpoints = await _lock_due_endpoints(connection, now, only)
    for row in endpoints:
        if row["status"] == "disabled":
            await fail_open(connection, row["id"], now)
    active = {row["id"]: row for row in endpoints if row["status"] == "active"}
    free = await _free(connection, active.values(), now)
    ids = await _due(connection, free, now, limit, only)
    if not ids:
        return []
    token = str(uuid7())
    await connection.execute(
        update(webhook_deliveries)
        .where(webhook_deliveries.c.id.in_(ids))
        .values(claim=token, next_attempt_at=now + timedelta(seconds=policy.lease_seconds))
    )
    return await _read(connection, ids, token, active, now)


async def hand_back(connection: AsyncConnection, claimed: Iterable[Claimed], *, wait_seconds: float = 0.0) -> None:
    """Release claims without an attempt."""
    due = await database_time(connection) + timedelta(seconds=wait_seconds)
    for one in sorted(claimed, key=lambda one: one.delivery_id):
        await connection.execute(
            update(webhook_deliveries)
            .where(webhook_deliveries.c.id == one.delivery_id, webhook_deliveries.c.claim == one.claim)
            .values(claim=None, next_attempt_at=due)
        )


async def settle(connection: AsyncConnection, policy: Policy, outcomes: Sequence[Outcome]) -> Settled:
    """Record attempts and update their deliveries and endpoints."""
    settled = Settled()
    if not outcomes:
        return settled
    now = await database_time(connection)
    deliveries, endpoints = await _lock(connection, {outcome.delivery_id for outcome in outcomes})
    for outcome in sorted(outcomes, key=lambda one: (one.at, one.delivery_id)):
        delivery = deliveries.get(outcome.delivery_id)
        if delivery is None:
            continue  # its endpoint was deleted meanwhile
        delivery.take(outcome, policy, now)
        endpoints[delivery.endpoint_id].take(outcome, now)
        await _keep_attempt(connection, delivery, outcome)
        settled.count(outcome, delivery)
    for delivery in deliveries.values():
        await _keep_delivery(connection, delivery)
    for endpoint in endpoints.values():
        await _keep_health(connection, endpoint)
        if (reason := endpoint.disable_reason(policy, now)) is not None:
            await disable(connection, endpoint.id, reason)
            settled.disabled += 1
    return settled


@dataclass(slots=True)
class _Delivery:
    """A delivery while outcomes are applied to it."""

    id: str
    endpoint_id: str
    state: str
    attempts: int
    step: int
    next_attempt_at: datetime | None
    claim: str | None
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    ended_at: datetime | None

    def take(self, outcome: Outcome, policy: Policy, now: datetime) -> None:
        """Apply an outcome. A success always counts, a failure only if the sender still held its claim."""
        self.attempts += 1
        self.last_attempt_at, self.last_status, self.last_error = outcome.at, outcome.http_status, outcome.error
        if outcome.is_delivered:
            self._end("delivered", now)
        elif self.state == "pending" and self.claim == outcome.claim:
            self.step += 1
            wait = policy.wait_seconds(self.step, outcome.retry_after_seconds)
            if wait is None:
                self._end("failed", now)
            else:
                self.claim, self.next_attempt_at = None, now + timedelta(seconds=wait)

    def _end(self, state: str, now: datetime) -> None:
        self.state, self.claim, self.next_attempt_at, self.ended_at = state, None, None, now


@dataclass(slots=True)
class _Health:
    """The health of an endpoint while outcomes are applied to it."""

    id: str
    is_active: bool
    failing_since: datetime | None
    failures_in_row: int
    is_gone: bool = False

    def take(self, outcome: Outcome, now: datetime) -> None:
        if outcome.is_delivered:
            self.failing_since, self.failures_in_row = None, 0
        else:
            self.failing_since = self.failing_since or now
            self.failures_in_row += 1
        self.is_gone = self.is_gone or outcome.is_gone

    def disable_reason(self, policy: Policy, now: datetime) -> DisabledReason | None:
        """Why the endpoint must be disabled; null if it stays active."""
        if not self.is_active:
            return None
        if self.is_gone:
            return "gone"
        if self.failing_since is None or self.failures_in_row < DISABLE_FAILURES:
            return None
        return "failing" if now - self.failing_since >= timedelta(hours=policy.disable_hours) else None


def _has_due_delivery(now: datetime, only: str | None) -> Exists:
    """That the endpoint has a due delivery. Reads a single index entry, however long the queue is."""
    wanted = [_d.endpoint_id == _e.id, _d.state == "pending", _d.next_attempt_at <= now]
    return exists().where(*wanted, *([] if only is None else [_d.id == only]))


async def _lock_due_endpoints(connection: AsyncConnection, now: datetime, only: str | None) -> list[RowMapping]:
    """Endpoints with due deliveries, skipping those that other senders have locked."""
    due = select(webhook_endpoints).where(_has_due_delivery(now, only)).order_by(_e.id).limit(_ENDPOINTS_AT_ONCE)
    locked = await connection.execute(due.with_for_update(key_share=True, skip_locked=True))
    return list(locked.mappings())


async def _free(connection: AsyncConnection, endpoints: Collection[RowMapping], now: datetime) -> dict[str, int]:
    """How many more deliveries may be in flight to each endpoint."""
    in_flight = (
        select(_d.endpoint_id, func.count())
        .where(_d.endpoint_id.in_([row["id"] for row in endpoints]))
        .where(_d.claim.is_not(None), _d.next_attempt_at > now)
        .group_by(_d.endpoint_id)
    )
    taken = {row[0]: row[1] for row in await connection.execute(in_flight)}
    return {row["id"]: _limit(row["failures_in_row"]) - taken.get(row["id"], 0) for row in endpoints}


def _limit(failures_in_row: int) -> int:
    return IN_FLIGHT_WHEN_FAILING if failures_in_row >= FAILING_AFTER else IN_FLIGHT


async def _due(
    connection: AsyncConnection, free: dict[str, int], now: datetime, limit: int, only: str | None
) -> list[str]:
    """Ids to claim: the most overdue ones of each endpoint, up to its free slots."""
    found: list[tuple[datetime, str]] = []
    for endpoint_id, count in free.items():
        wanted = [_d.endpoint_id == endpoint_id, _d.state == "pending", _d.next_attempt_at <= now]
        statement = select(_d.next_attempt_at, _d.id).where(*wanted, *([] if only is None else [_d.id == only]))
        statement = statement.order_by(_d.next_attempt_at, _d.id).limit(max(0, count))
        found += [(row[0], row[1]) for row in await connection.execute(statement)]
    return [id_ for _, id_ in sorted(found)[:limit]]


async def _read(
    connection: AsyncConnection, ids: Sequence[str], token: str, endpoints: dict[str, RowMapping], now: datetime
) -> list[Claimed]:
    statement = (
        select(_d.id, _d.event_id, _d.endpoint_id, webhook_events.c.body)
        .join(webhook_events, webhook_events.c.event_id == _d.event_id)
        .where(_d.id.in_(ids))
    )
    found = {row.id: row for row in await connection.execute(statement)}
    claimed = []
    for id_ in ids:
        row, endpoint = found[id_], endpoints[found[id_].endpoint_id]
        until = endpoint["old_valid_until"]
        old = (endpoint["sealed_old_secret"],) if until is not None and until > now else ()
        claimed.append(
            Claimed(
                delivery_id=id_,
                claim=token,
                event_id=row.event_id,
                endpoint_id=row.endpoint_id,
                body=bytes(row.body),
                url=endpoint["url"],
                sealed_url=endpoint["sealed_url"],
                sealed_headers=endpoint["sealed_headers"],
                sealed_secrets=(endpoint["sealed_secret"], *old),
                at=now,
            )
        )
    return claimed


async def _lock(
    connection: AsyncConnection, delivery_ids: Collection[str]
) -> tuple[dict[str, _Delivery], dict[str, _Health]]:
    """Lock deliveries and their endpoints; returns both by id."""
    of_deliveries = select(_d.endpoint_id).where(_d.id.in_(sorted(delivery_ids)))
    healths = await connection.execute(
        select(_e.id, _e.status, _e.failing_since, _e.failures_in_row)
        .where(_e.id.in_(of_deliveries))
        .order_by(_e.id)
        .with_for_update(key_share=True)
    )
    endpoints = {
        row.id: _Health(row.id, row.status == "active", row.failing_since, row.failures_in_row) for row in healths
    }
    names = [field.name for field in fields(_Delivery)]
    rows = await connection.execute(
        select(*(_d[name] for name in names))
        .where(_d.id.in_(sorted(delivery_ids)), _d.endpoint_id.in_(sorted(endpoints)))
        .order_by(_d.id)
        .with_for_update()
    )
    return {row.id: _Delivery(*row) for row in rows}, endpoints


async def _keep_attempt(connection: AsyncConnection, delivery: _Delivery, outcome: Outcome) -> None:
    await connection.execute(
        insert(webhook_attempts).values(
            delivery_id=delivery.id,
            number=delivery.attempts,
            at=outcome.at,
            duration_ms=outcome.duration_ms,
            http_status=outcome.http_status,
            error=outcome.error,
            reply=outcome.reply,
        )
    )


async def _keep_delivery(connection: AsyncConnection, delivery: _Delivery) -> None:
    values = {name: value for name, value in asdict(delivery).items() if name not in ("id", "endpoint_id")}
    await connection.execute(update(webhook_deliveries).where(_d.id == delivery.id).values(values))


async def _keep_health(connection: AsyncConnection, endpoint: _Health) -> None:
    await connection.execute(
        update(webhook_endpoints)
        .where(_e.id == endpoint.id)
        .values(failing_since=endpoint.failing_since, failures_in_row=endpoint.failures_in_row)
    )


_d = webhook_deliveries.c
_e = webhook_endpoints.c

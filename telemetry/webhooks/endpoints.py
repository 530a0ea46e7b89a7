"""Webhook endpoints of an owner, with their secrets and their health.

Every function takes the owner, and treats another owner's endpoint as missing. The caller has checked the URL.
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from sqlalchemy import ColumnElement, delete, insert, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from engine.database.base import database_time
from engine.documents.json_text import to_json
from engine.errors import NotFound, Refusal
from engine.security.redaction import mask_url
from telemetry.store.tables import webhook_deliveries, webhook_endpoints

if TYPE_CHECKING:  # processes that only store signals need no cryptography
    from engine.security.sealing import Sealer

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32

DisabledReason = Literal["owner", "gone", "failing"]
"""`owner`: the owner disabled it; `gone`: it answered 410; `failing`: every attempt failed for days."""


class EndpointDisabled(Refusal):
    """The endpoint is disabled; enable it first."""

    code = "endpoint_disabled"


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint to create. Header values are secrets and are never read back."""

    url: str
    events: Sequence[str]
    templates: Sequence[str] | None = None
    """Template ids or keys; null means every execution."""
    headers: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to an endpoint; null keeps a value. `clear` names fields to set to null: `templates`, `description`."""

    url: str | None = None
    events: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    headers: Mapping[str, str] | None = None
    description: str | None = None
    status: Literal["active", "disabled"] | None = None
    clear: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint, without its secrets."""

    id: str
    owner: str
    url: str
    """With the values of its query masked."""
    description: str | None
    events: list[str]
    templates: list[str] | None
    header_names: list[str]
    status: Literal["active", "disabled"]
    disabled_at: datetime | None
    disabled_reason: DisabledReason | None
    failing_since: datetime | None
    failures_in_row: int
    old_valid_until: datetime | None
    """Until when requests are also signed with the previous secret."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookCursor:
    """The last row of a page of endpoints or deliveries."""

    created_at: datetime
    id: str


async def create(connection: AsyncConnection, owner: str, new: NewEndpoint, sealer: "Sealer") -> tuple[Endpoint, str]:
    """Create an endpoint; returns it with its secret, which is never shown again. Raises `SecretKeyMissing`."""
    secret = _new_secret()
    now = datetime.now(UTC)
    endpoint_id = str(uuid7())
    values = {
        "id": endpoint_id,
        "owner_id": owner,
        **_sealed_url(new.url, sealer),
        "description": new.description,
        "events": list(new.events),
        "templates": None if new.templates is None else list(new.templates),
        **_sealed_headers(new.headers, sealer),
        "sealed_secret": sealer.seal(secret),
        "status": "active",
        "failures_in_row": 0,
        "created_at": now,
        "updated_at": now,
    }
    await connection.execute(insert(webhook_endpoints).values(values))
    return await get(connection, owner, endpoint_id), secret


async def get(connection: AsyncConnection, owner: str, endpoint_id: str, *, lock: bool = False) -> Endpoint:
    """The endpoint; `lock` locks its row. Raises `NotFound`."""
    statement = select(webhook_endpoints).where(*_is(owner, endpoint_id))
    if lock:
        statement = statement.with_for_update(key_share=True)
    row = (await connection.execute(statement)).mappings().one_or_none()
    if row is None:
        raise NotFound.of("endpoint", endpoint_id)
    return _read(row)


async def list_endpoints(
    connection: AsyncConnection, owner: str, *, limit: int = 50, after: WebhookCursor | None = None
) -> tuple[list[Endpoint], WebhookCursor | None]:
    """A page of endpoints, newest first, and the cursor of the next page; null on the last page."""
    c = webhook_endpoints.c
    statement = select(webhook_endpoints).where(c.owner_id == owner)
    if after is not None:
        end = tuple_(after.created_at, after.id, types=[c.created_at.type, c.id.type])
        statement = statement.where(tuple_(c.created_at, c.id) < end)
    statement = statement.order_by(c.created_at.desc(), c.id.desc()).limit(limit + 1)
    found = [_read(row) for row in (await connection.execute(statement)).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], WebhookCursor(last.created_at, last.id) if last else None


async def find_endpoint_ids(connection: AsyncConnection, owner: str, beginning: str, *, limit: int) -> list[str]:
    """Ids of endpoints that start with a prefix."""
    c = webhook_endpoints.c
    statement = select(c.id).where(c.owner_id == owner, c.id.startswith(beginning, autoescape=True))
    return list((await connection.execute(statement.order_by(c.id).limit(limit))).scalars())


async def change(
    connection: AsyncConnection, owner: str, endpoint_id: str, changes: Changes, sealer: "Sealer"
) -> Endpoint:
    """Change an endpoint; returns the new state. Its URL as it is shown changes nothing. Raises `NotFound`."""
    found = await get(connection, owner, endpoint_id, lock=True)
    values: dict[str, object] = {"updated_at": datetime.now(UTC), **dict.fromkeys(changes.clear)}
    if changes.url is not None and changes.url != found.url:
        values |= _sealed_url(changes.url, sealer)
    if changes.description is not None:
        values["description"] = changes.description
    for name in ("events", "templates"):
        if (items := getattr(changes, name)) is not None:
            values[name] = list(items)
    if changes.headers is not None:
        values |= _sealed_headers(changes.headers, sealer)
    if changes.status == "active" and found.status == "disabled":
        values |= {
            "status": "active",
            "disabled_at": None,
            "disabled_reason": None,
            "failing_since": None,
            "failures_in_row": 0,
        }
    await connection.execute(update(webhook_endpoints).where(*_is(owner, endpoint_id)).values(values))
    if changes.status == "disabled" and found.status == "active":
        await disable(connection, endpoint_id, "owner")
    return await get(connection, owner, endpoint_id)


async def remove(connection: AsyncConnection, owner: str, endpoint_id: str) -> None:
    """Delete the endpoint and its deliveries. Raises `NotFound`."""
    await get(connection, owner, endpoint_id, lock=True)
    await connection.execute(delete(webhook_endpoints).where(*_is(owner, endpoint_id)))


async def rotate_secret(
    connection: AsyncConnection, owner: str, endpoint_id: str, overlap_hours: int, sealer: "Sealer"
) -> tuple[str, datetime]:
    """Replace the secret; returns the new one and until when the old one signs too. Raises `NotFound`."""
    await get(connection, owner, endpoint_id, lock=True)
    secret = _new_secret()
    until = await database_time(connection) + timedelta(hours=overlap_hours)
    values = {
        "sealed_old_secret": webhook_endpoints.c.sealed_secret,
        "old_valid_until": until,
        "sealed_secret": sealer.seal(secret),
        "updated_at": datetime.now(UTC),
    }
    await connection.execute(update(webhook_endpoints).where(*_is(owner, endpoint_id)).values(values))
    return secret, until


async def disable(connection: AsyncConnection, endpoint_id: str, reason: DisabledReason) -> None:
    """Disable the endpoint and fail its pending deliveries."""
    now = await database_time(connection)
    await connection.execute(
        update(webhook_endpoints)
        .where(webhook_endpoints.c.id == endpoint_id, webhook_endpoints.c.status == "active")
        .values(status="disabled", disabled_at=now, disabled_reason=reason, updated_at=now)
    )
    await fail_open(connection, endpoint_id, now)


async def fail_open(connection: AsyncConnection, endpoint_id: str, now: datetime) -> None:
    """Fail the pending deliveries of a disabled endpoint."""
    await connection.execute(
        update(webhook_deliveries)
        .where(webhook_deliveries.c.endpoint_id == endpoint_id, webhook_deliveries.c.state == "pending")
        .values(state="failed", last_error="the endpoint is disabled", next_attempt_at=None, claim=None, ended_at=now)
    )


def _is(owner: str, endpoint_id: str) -> tuple[ColumnElement[bool], ...]:
    return webhook_endpoints.c.owner_id == owner, webhook_endpoints.c.id == endpoint_id


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


async def seal_urls(connection: AsyncConnection, sealer: "Sealer") -> None:
    """Seal the URLs that an earlier version stored openly. Raises `SecretKeyMissing` if there are any, and no key."""
    c = webhook_endpoints.c
    statement = select(c.id, c.url).where(c.sealed_url.is_(None), c.url.contains("?", autoescape=True))
    for id_, url in (await connection.execute(statement.order_by(c.id).with_for_update())).all():
        values = _sealed_url(url, sealer)
        await connection.execute(update(webhook_endpoints).where(c.id == id_).values(values))


def _sealed_url(url: str, sealer: "Sealer") -> dict[str, object]:
    shown = mask_url(url)
    return {"url": shown, "sealed_url": sealer.seal(url) if shown != url else None}


def _sealed_headers(headers: Mapping[str, str], sealer: "Sealer") -> dict[str, object]:
    sealed = sealer.seal(to_json(dict(headers)).decode()) if headers else None
    return {"header_names": sorted(headers), "sealed_headers": sealed}


def _read(row: RowMapping) -> Endpoint:
    return Endpoint(
        id=row["id"],
        owner=row["owner_id"],
        url=mask_url(row["url"]),
        description=row["description"],
        events=row["events"],
        templates=row["templates"],
        header_names=row["header_names"],
        status=row["status"],
        disabled_at=row["disabled_at"],
        disabled_reason=row["disabled_reason"],
        failing_since=row["failing_since"],
        failures_in_row=row["failures_in_row"],
        old_valid_until=row["old_valid_until"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )

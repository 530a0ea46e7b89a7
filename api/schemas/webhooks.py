"""Request bodies and responses about webhook endpoints and their deliveries."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from api.schemas.executions import Answer
from api.schemas.timestamps import Time
from api.schemas.values import one_of
from engine.graph import Document
from telemetry.webhooks import deliveries, endpoints
from telemetry.webhooks.payloads import TYPES

EventType = Annotated[str, AfterValidator(one_of("event", TYPES)), Field(json_schema_extra={"enum": list(TYPES)})]
"""The type of an event that an endpoint may receive."""


def _is_text(value: object) -> object:
    """Refuse numbers as times in a body, as in a query."""
    if not isinstance(value, str):
        raise ValueError("Write a time as 2026-11-24T02:20:00Z")
    return value


Url = Annotated[str, Field(min_length=1, max_length=2_048)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Description = Annotated[str, Field(max_length=500)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=20)]
Templates = Annotated[list[Text], Field(min_length=1, max_length=100)]
HeaderName = Annotated[str, Field(pattern=r"^([Xx]-[A-Za-z0-9_-]{1,100}|[Aa]uthorization)$")]
HeaderValue = Annotated[str, Field(max_length=1_024, pattern=r"^[!-~]([ -~]*[!-~])?$")]
Headers = Annotated[dict[HeaderName, HeaderValue], Field(max_length=20)]
BodyTime = Annotated[Time, Field(strict=False), BeforeValidator(_is_text)]


class EndpointBody(Document):
    """A new endpoint. `templates` holds ids or keys; without it the endpoint receives events of every execution."""

    url: Url
    events: Events
    templates: Templates | None = None
    headers: Headers = Field({})
    description: Description | None = None


class EndpointChange(Document):
    """Changes to an endpoint. Absent or null fields keep their value, but null clears `templates` and `description`."""

    url: Url | None = None
    events: Events | None = None
    templates: Templates | None = None
    headers: Headers | None = None
    description: Description | None = None
    status: Literal["active", "disabled"] | None = None

    def changes(self) -> endpoints.Changes:
        """The changes as the store takes them."""
        clear = {name for name in ("templates", "description") if name in self.model_fields_set}
        return endpoints.Changes(
            url=self.url,
            events=self.events,
            templates=self.templates,
            headers=self.headers,
            description=self.description,
            status=self.status,
            clear=frozenset(name for name in clear if getattr(self, name) is None),
        )


class RotateBody(Document):
    """The time for which requests are signed with the old secret as well."""

    overlap_hours: int = Field(24, ge=0, le=168)


class RedeliverBody(Document):
    """A time range (half-open). Its failed deliveries or all are sent again, and missed events in both cases."""

    since: BodyTime = Field(alias="from")
    until: BodyTime = Field(alias="to")
    only: Literal["failed", "all"] = "failed"


class EndpointAnswer(Answer):
    """An endpoint, without its secret and the values of its headers: these are never shown again.

    `disabled_reason` is `owner` (disabled by a request), `gone` (it responded with 410) or `failing` (failed for days).
    """

    id: str
    url: str
    description: str | None
    events: list[str]
    templates: list[str] | None
    header_names: list[str]
    status: Literal["active", "disabled"]
    disabled_at: datetime | None
    disabled_reason: Literal["owner", "gone", "failing"] | None
    failing_since: datetime | None
    failures_in_row: int
    old_secret_valid_until: datetime | None
    created_at: datetime
    updated_at: datetime


class NewEndpointAnswer(EndpointAnswer):
    """An endpoint with its secret, which is shown only once."""

    secret: str


class EndpointPage(Answer):
    """A page of endpoints; `next_cursor` is null on the last page."""

    items: list[EndpointAnswer]
    next_cursor: str | None


class SecretAnswer(Answer):
    """The new secret, which is shown only once, and the time until which the old secret is used as well."""

    secret: str
    old_valid_until: datetime


class DeliveryAnswer(Answer):
    """The delivery of one event to one endpoint; `webhook_id` is the same for every attempt."""

    id: str
    webhook_id: str
    endpoint_id: str
    execution_id: str | None
    event_type: str
    state: Literal["pending", "delivered", "failed"]
    attempts_made: int
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryAttempt(Answer):
    """One attempt to deliver: the status and the first 2 KiB of the reply, or the error if there was no reply."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    reply: str | None


class DeliveryDetail(DeliveryAnswer):
    """A delivery with its attempts, in order."""

    attempts: list[DeliveryAttempt]


class DeliveryPage(Answer):
    """A page of deliveries; `next_cursor` is null on the last page."""

    items: list[DeliveryAnswer]
    next_cursor: str | None


class RedeliveredAnswer(Answer):
    """The number of deliveries that are sent again."""

    deliveries: int


def endpoint(found: endpoints.Endpoint) -> EndpointAnswer:
    """The endpoint as a document."""
    return EndpointAnswer.model_validate(_of_endpoint(found))


def new_endpoint(made: endpoints.Endpoint, secret: str) -> NewEndpointAnswer:
    """The new endpoint and its secret as a document."""
    return NewEndpointAnswer.model_validate(_of_endpoint(made) | {"secret": secret})


def delivery(found: deliveries.Delivery) -> DeliveryAnswer:
    """The delivery as a document."""
    return DeliveryAnswer.model_validate(_of_delivery(found))


def delivery_detail(found: deliveries.Delivery, attempts: list[deliveries.Attempt]) -> DeliveryDetail:
    """The delivery and its attempts as a document."""
    made = [
        DeliveryAttempt(
            number=one.number,
            at=one.at,
            duration_ms=one.duration_ms,
            status=one.http_status,
            error=one.error,
            reply=one.reply,
        )
        for one in attempts
    ]
    return DeliveryDetail.model_validate(_of_delivery(found) | {"attempts": made})


def _of_endpoint(found: endpoints.Endpoint) -> dict[str, object]:
    same = {name: getattr(found, name) for name in EndpointAnswer.model_fields if name != "old_secret_valid_until"}
    return same | {"old_secret_valid_until": found.old_valid_until}


def _of_delivery(found: deliveries.Delivery) -> dict[str, object]:
    same = {name: getattr(found, name) for name in DeliveryAnswer.model_fields if name not in _RENAMED}
    return same | {"webhook_id": f"evt_{found.event_id}", "attempts_made": found.attempts}


_RENAMED = ("webhook_id", "attempts_made")

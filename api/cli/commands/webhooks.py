"""`spanloom webhooks`: manage endpoints, list deliveries and send them again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists, every, write
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.formatting import plural
from api.cli.rendering.plain import plain
from api.cli.rendering.webhooks import deliveries_table, endpoints_table
from api.schemas import webhooks as documents
from api.settings import Settings
from api.wiring.database import open_database
from api.wiring.webhooks import build_egress, build_sealer, build_sender
from engine.errors import NotFound
from engine.request import Caller
from engine.tracing.semconv import TERMINAL_EVENTS
from telemetry.webhooks import deliveries, endpoints
from telemetry.webhooks.payloads import TYPES

T = TypeVar("T")

_OWNER = Caller().owner
"""A user of the shell is the default owner."""
_SHOWN = 5
_TEST_SECONDS = 5.0
"""How long `test` waits beyond the timeout of one attempt."""


def list_all(*, as_json: bool) -> int:
    """List all endpoints."""
    settings = terminal.begin()
    found = _run(settings, _all_endpoints)
    if as_json:
        terminal.show_json({"items": [documents.endpoint(one).model_dump(mode="json") for one in found]})
    else:
        terminal.show(endpoints_table(found, width=terminal.console().width))
    return DONE


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """The arguments of `spanloom webhooks add`."""

    url: str
    events: Sequence[str]
    templates: Sequence[str]
    headers: Sequence[str]
    description: str | None


def add(given: NewEndpoint, *, as_json: bool) -> int:
    """Add an endpoint and print its secret, which is shown only once. Raises `UrlNotAllowed`."""
    settings = terminal.begin()
    body = _body(given)
    interrupts.run(build_egress(settings).check(body.url))
    new = endpoints.NewEndpoint(body.url, body.events, body.templates, body.headers, body.description)
    made, secret = write(settings, lambda c: endpoints.create(c, _OWNER, new, build_sealer(settings)))
    if as_json:
        terminal.show_json(documents.new_endpoint(made, secret).model_dump(mode="json"))
        return DONE
    print(f"Added endpoint {made.id} for these events: {', '.join(made.events)}.")
    print(f"Signing secret, shown only once: {secret}")
    print(f"Test it: spanloom webhooks test {made.id}")
    return DONE


def test(id: str, *, as_json: bool) -> int:
    """Send `webhook.test` now and print the response; 1 if it was not delivered."""
    settings = terminal.begin()
    check_exists(settings)
    found, attempts = interrupts.run(_test(settings, id))
    if as_json:
        terminal.show_json(documents.delivery_detail(found, attempts).model_dump(mode="json"))
    elif found.state == "delivered":
        print(f"Delivered: status {found.last_status} after {attempts[-1].duration_ms} ms.")
    else:
        reason = plain(found.last_error) or "it is still pending; see `spanloom webhooks deliveries`"
        print(f"Not delivered: {reason}.")
    return DONE if found.state == "delivered" else BAD_NEWS


def rotate(id: str, overlap_hours: int, *, as_json: bool) -> int:
    """Replace the secret and print the new one; until the overlap ends, the old one signs too."""
    settings = terminal.begin()

    async def change(connection: AsyncConnection) -> tuple[str, datetime]:
        endpoint_id = await _endpoint_id(connection, id)
        return await endpoints.rotate_secret(connection, _OWNER, endpoint_id, overlap_hours, build_sealer(settings))

    secret, until = _run(settings, change)
    if as_json:
        terminal.show_json(documents.SecretAnswer(secret=secret, old_valid_until=until).model_dump(mode="json"))
    else:
        print(f"New signing secret, shown only once: {secret}")
        print(f"The old secret is used as well until {until.astimezone(UTC):%Y-%m-%d %H:%M} UTC.")
    return DONE


def set_status(id: str, status: Literal["active", "disabled"], *, as_json: bool) -> int:
    """Disable an endpoint, or enable it again."""
    settings = terminal.begin()

    async def change(connection: AsyncConnection) -> endpoints.Endpoint:
        endpoint_id = await _endpoint_id(connection, id)
        wanted = endpoints.Changes(status=status)
        return await endpoints.change(connection, _OWNER, endpoint_id, wanted, build_sealer(settings))

    changed = _run(settings, change)
    if as_json:
        terminal.show_json(documents.endpoint(changed).model_dump(mode="json"))
    else:
        hint = f" To send what it missed: spanloom webhooks redeliver {changed.id} --from TIME --to TIME"
        print(f"Endpoint {changed.id} is {changed.status}." + (hint if status == "active" else ""))
    return DONE


@dataclass(frozen=True, slots=True)
class DeliveryFilters:
    """The filters of `spanloom webhooks deliveries`."""

    endpoint: str | None
    state: str | None
    event_type: str | None
    execution_id: str | None
    since: datetime | None
    until: datetime | None


def list_deliveries(wanted: DeliveryFilters, limit: int, *, as_json: bool) -> int:
    """List the newest deliveries."""
    settings = terminal.begin()
    filters = deliveries.DeliveryFilter(
        wanted.endpoint, _state(wanted.state), wanted.event_type, wanted.execution_id, wanted.since, wanted.until
    )
    found, end = _run(settings, lambda c: deliveries.list_deliveries(c, _OWNER, filters, limit=limit))
    if as_json:
        items = [documents.delivery(one).model_dump(mode="json") for one in found]
        terminal.show_json({"items": items, "more": end is not None})
        return DONE
    terminal.show(deliveries_table(found, width=terminal.console().width))
    if end is not None:
        print(f"Only the newest {limit} are shown. Use --limit to show more.")
    return DONE


def redeliver(id: str, since: datetime | None, until: datetime | None, *, everything: bool, as_json: bool) -> int:
    """Send one delivery again, or all that an endpoint missed in a period."""
    settings = terminal.begin()

    async def again(connection: AsyncConnection) -> int:
        if since is None or until is None:
            delivery_id = await _delivery_id(connection, id)
            await deliveries.redeliver(connection, _OWNER, delivery_id)
            return 1
        endpoint_id = await _endpoint_id(connection, id)
        only: Literal["failed", "all"] = "all" if everything else "failed"
        return await deliveries.redeliver_range(connection, _OWNER, endpoint_id, since, until, only)

    if (since is None) != (until is None):
        wrong_use("Give both --from and --to, together with the id of an endpoint.")
    count = _run(settings, again)
    if as_json:
        terminal.show_json({"deliveries": count})
    else:
        print(f"Queued {plural(count, 'delivery', 'deliveries')}; a running `spanloom serve` sends them.")
    return DONE


def _state(name: str | None) -> deliveries.State | None:
    states = {state: state for state in deliveries.STATES}
    if name is not None and name not in states:
        wrong_use(f"Unknown state {name!r}. Valid states: {', '.join(states)}.")
    return None if name is None else states[name]


async def _test(settings: Settings, id: str) -> tuple[deliveries.Delivery, list[deliveries.Attempt]]:
    """Send the test event from this process. If a service sends it first, wait for its attempt."""
    async with open_database(settings) as database:
        async with database.begin() as connection:
            made = await deliveries.send_test(connection, _OWNER, await _endpoint_id(connection, id))
        await build_sender(settings, database).send_one(made.id)
        for _ in range(round((settings.webhook_timeout_seconds + _TEST_SECONDS) / 0.2)):
            async with database.read() as connection:
                found = await deliveries.get_delivery(connection, _OWNER, made.id)
                attempts = await deliveries.read_attempts(connection, found)
            if attempts:
                break
            await asyncio.sleep(0.2)
        return found, attempts


def _run(settings: Settings, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` in one transaction. Raises `Unavailable` if the SQLite file does not exist."""
    check_exists(settings)
    return write(settings, work)


async def _all_endpoints(connection: AsyncConnection) -> list[endpoints.Endpoint]:
    return await every(lambda after: endpoints.list_endpoints(connection, _OWNER, limit=200, after=after))


async def _endpoint_id(connection: AsyncConnection, beginning: str) -> str:
    ids = await endpoints.find_endpoint_ids(connection, _OWNER, beginning.lower(), limit=_SHOWN + 1)
    return _only(ids, beginning, "endpoint", "endpoints", "spanloom webhooks list")


async def _delivery_id(connection: AsyncConnection, beginning: str) -> str:
    ids = await deliveries.find_delivery_ids(connection, _OWNER, beginning.lower(), limit=_SHOWN + 1)
    return _only(ids, beginning, "delivery", "deliveries", "spanloom webhooks deliveries")


def _only(ids: Sequence[str], beginning: str, thing: str, things: str, command: str) -> str:
    """Raises `NotFound`."""
    if len(ids) > 1:
        shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
        raise NotFound(f"Several {things} begin with {beginning!r}: {shown}. Give more characters of the id.")
    if not ids:
        raise NotFound(f"There is no {thing} {beginning!r}. List the {things}: {command}")
    return ids[0]


def _body(given: NewEndpoint) -> documents.EndpointBody:
    """The request body of the HTTP API, so that the same rules apply. Raises `WrongUse`."""
    headers: dict[str, str] = {}
    for header in given.headers:
        name, separator, value = header.partition("=")
        if not separator:
            wrong_use(f"Cannot read --header {name!r}. Write it as NAME=VALUE.")
        headers[name] = value
    unknown = [event for event in given.events if event not in TYPES]
    if unknown:
        wrong_use(f"Unknown event {unknown[0]!r}. Valid events: {', '.join(TYPES)}.")
    try:
        return documents.EndpointBody.model_validate(
            {
                "url": given.url,
                "events": list(given.events) or sorted(event.value for event in TERMINAL_EVENTS),
                "templates": list(given.templates) or None,
                "headers": headers,
                "description": given.description,
            }
        )
    except ValidationError as error:
        place = ".".join(str(step) for step in error.errors(include_input=False)[0]["loc"])
        wrong_use(f"The value of {place} is not valid; see `EndpointBody` in docs/openapi.json.")

"""Tables of the terminal: endpoints and deliveries of webhooks."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import UNKNOWN, moment, short_ids
from telemetry.webhooks.deliveries import Delivery
from telemetry.webhooks.endpoints import Endpoint

_STYLES = {"active": "green", "delivered": "green", "disabled": "red", "failed": "red", "pending": "yellow"}


def endpoints_table(found: Sequence[Endpoint]) -> RenderableType:
    """One line per endpoint, as they come."""
    if not found:
        return Text("Nobody is told of anything. Add an endpoint: spanloom webhooks add https://…")
    table = _table("id", "status", "url", "events", "since (UTC)")
    shown = short_ids([one.id for one in found])
    for one in found:
        status = one.status if one.disabled_reason is None else f"{one.status} ({one.disabled_reason})"
        if one.status == "active" and one.failures_in_row:
            status = f"failing ({one.failures_in_row})"
        events = ", ".join(event.partition(".")[2] for event in one.events)
        style = _STYLES[one.status] if not one.failures_in_row else "yellow"
        table.add_row(shown[one.id], Text(status, style=style), one.url, events, moment(one.created_at))
    return table


def deliveries_table(found: Sequence[Delivery]) -> RenderableType:
    """One line per delivery, as they come."""
    if not found:
        return Text("Nothing was sent.")
    table = _table("id", "state", "event", "endpoint", "attempts", "last answer", "next (UTC)")
    shown = short_ids([one.id for one in found])
    endpoints = short_ids([one.endpoint_id for one in found])
    for one in found:
        answer = one.last_error or (UNKNOWN if one.last_status is None else str(one.last_status))
        table.add_row(
            shown[one.id],
            Text(one.state, style=_STYLES[one.state]),
            one.event_type,
            endpoints[one.endpoint_id],
            str(one.attempts),
            answer,
            moment(one.next_attempt_at),
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("id", "status", "state", "endpoint"))
    return table

"""Tables of the terminal: webhook endpoints and deliveries. Ids are whole, so that they can be copied."""

from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.rendering.formatting import UNKNOWN, moment
from api.cli.rendering.plain import plain
from telemetry.webhooks.deliveries import Delivery
from telemetry.webhooks.endpoints import Endpoint

_STYLES = {"active": "green", "delivered": "green", "disabled": "red", "failed": "red", "pending": "yellow"}
_WIDE = 120


def endpoints_table(endpoints: Sequence[Endpoint], *, width: int) -> RenderableType:
    """One line per endpoint, in the given order; on a narrow terminal without events and age."""
    if not endpoints:
        return Text("No endpoints. Add one: spanloom webhooks add https://…")
    is_wide = width >= _WIDE
    table = _table("id", "status", "url", *(("events", "since (UTC)") if is_wide else ()))
    for one in plain(endpoints):
        status = one.status if one.disabled_reason is None else f"{one.status} ({one.disabled_reason})"
        if one.status == "active" and one.failures_in_row:
            status = f"failing ({one.failures_in_row})"
        events = ", ".join(event.partition(".")[2] for event in one.events)
        style = _STYLES[one.status] if not one.failures_in_row else "yellow"
        wide = (events, moment(one.created_at)) if is_wide else ()
        table.add_row(one.id, Text(status, style=style), one.url, *wide)
    return table


def deliveries_table(deliveries: Sequence[Delivery], *, width: int) -> RenderableType:
    """One line per delivery, in the given order; on a narrow terminal without endpoint, attempts and next attempt."""
    if not deliveries:
        return Text("No deliveries.")
    is_wide = width >= _WIDE
    wide_names = ("attempts", "next (UTC)", "endpoint") if is_wide else ()
    table = _table("id", "state", "event", "last response", *wide_names)
    for one in plain(deliveries):
        response = one.last_error or (UNKNOWN if one.last_status is None else str(one.last_status))
        wide = (str(one.attempts), moment(one.next_attempt_at), one.endpoint_id) if is_wide else ()
        table.add_row(one.id, Text(one.state, style=_STYLES[one.state]), one.event_type, response, *wide)
    return table


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("id", "status", "state", "endpoint"), overflow="fold")
    return table

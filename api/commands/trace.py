"""`spanloom trace`: the span tree of one execution."""

from sqlalchemy.ext.asyncio import AsyncConnection

from api import documents
from api.commands import terminal
from api.commands.failing import DONE
from api.commands.reading import find_execution, read
from api.render import trace_header, trace_view
from telemetry.queries import ExecutionRecord, Trace, get_trace

MAX_SPANS = 2_000
MAX_WIDTH = 120
"""Wider lines are hard to follow with the eye."""
PIPED_WIDTH = 100


def show_trace(id: str, *, as_json: bool) -> int:
    """The tree with bars, or its spans as JSON."""
    settings = terminal.begin()
    record, trace = read(settings, lambda connection: find_trace(connection, id))
    if as_json:
        terminal.show_json(documents.trace(trace, None, settings).model_dump(mode="json"))
        return DONE
    console = terminal.console()
    console.print(trace_header(record))
    width = min(console.width, MAX_WIDTH) if console.is_terminal else PIPED_WIDTH
    console.print(trace_view(trace, record, width=width))
    if link := settings.trace_link(record.trace_id):
        console.print(link, style="dim")
    return DONE


async def find_trace(connection: AsyncConnection, id: str) -> tuple[ExecutionRecord, Trace]:
    """Record and spans. Raises `NotFound`."""
    record = await find_execution(connection, id)
    trace = await get_trace(connection, record.id, record.owner_id, limit=MAX_SPANS)
    assert trace is not None
    return record, trace

"""`spanloom trace`: show the span tree of one execution."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists, find_execution, read
from api.cli.exit_codes import BAD_NEWS, DONE, INTERRUPTED
from api.cli.rendering.content import calls_view
from api.cli.rendering.formatting import duration
from api.cli.rendering.plain import plain
from api.cli.rendering.trace_tree import trace_header, trace_view
from api.schemas import executions
from api.wiring.database import open_database
from engine.database.database import Database
from engine.result import Status
from engine.retention import call_content
from engine.retention.call_content import StoredCall
from telemetry.reads.executions import ExecutionRecord
from telemetry.reads.traces import Trace, get_trace

MAX_SPANS = 2_000
FOLLOW_SECONDS = 0.5
MAX_WIDTH = 120
"""Wider lines are hard to read."""
PIPED_WIDTH = 100


def show_trace(id: str, *, with_content: bool = False, as_json: bool) -> int:
    """Print the span tree, or the spans as JSON; and what the calls said, if that is asked for."""
    settings = terminal.begin()

    async def find(connection: AsyncConnection) -> tuple[ExecutionRecord, Trace, list[StoredCall]]:
        record, trace = await find_trace(connection, id)
        calls = await call_content.read(connection, record.id, limit=MAX_SPANS) if with_content else []
        return record, trace, calls

    record, trace, calls = read(settings, find)
    if as_json:
        document = executions.trace(trace, None, settings).model_dump(mode="json")
        said = executions.content(record.id, calls, None).model_dump(mode="json")
        terminal.show_json(document | ({"calls": said["calls"]} if with_content else {}))
        return DONE
    console = terminal.console()
    console.print(trace_header(record))
    width = min(console.width, MAX_WIDTH) if console.is_terminal else PIPED_WIDTH
    console.print(trace_view(trace, record, width=width))
    if link := settings.trace_link(record.trace_id):
        console.print(link, style="dim")
    if with_content:
        console.print(calls_view(trace, calls), soft_wrap=True)
    return DONE


def follow_trace(id: str, *, with_content: bool = False, as_json: bool) -> int:
    """Print progress on stderr until the execution has ended, then its trace; 1 unless it completed."""
    settings = terminal.begin()
    check_exists(settings)

    async def follow() -> ExecutionRecord:
        async with open_database(settings) as database:
            return await _until_ended(database, id)

    try:
        record = interrupts.run(follow())
    except KeyboardInterrupt:
        return INTERRUPTED
    show_trace(record.id, with_content=with_content, as_json=as_json)
    return DONE if record.status == Status.COMPLETED else BAD_NEWS


async def _until_ended(database: Database, id: str) -> ExecutionRecord:
    """Print each change of status, and each span once it is stored."""
    console = terminal.console(stderr=True)
    shown: set[str] = set()
    status = ""
    while True:
        async with database.read() as connection:
            record, trace = await find_trace(connection, id)
        id = record.id
        for span in plain(trace.spans):
            if span.duration_us is not None and span.span_id not in shown and span.kind != "workflow":
                console.print(f"  {span.name}  {span.status}  {duration(span.duration_us / 1_000)}", soft_wrap=True)
                shown.add(span.span_id)
        if record.status != status:
            status = record.status
            hint = f". To see the question: spanloom executions show {record.id}" if status == Status.PAUSED else ""
            console.print(f"{status}{hint}", soft_wrap=True)
        if Status(status).is_terminal:
            return record
        await asyncio.sleep(FOLLOW_SECONDS)


async def find_trace(connection: AsyncConnection, id: str) -> tuple[ExecutionRecord, Trace]:
    """The record and the spans of an execution. Raises `NotFound`."""
    record = await find_execution(connection, id)
    trace = await get_trace(connection, record.id, record.owner_id, limit=MAX_SPANS)
    assert trace is not None
    return record, trace

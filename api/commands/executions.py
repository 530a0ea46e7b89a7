"""`spanloom executions`: list, show, cancel."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from api import documents
from api.bootstrap import open_database
from api.commands import terminal
from api.commands.failing import BAD_NEWS, DONE, wrong_use
from api.commands.reading import check_exists, find_execution, read
from api.render_tables import execution_details, executions_table
from engine.errors import AlreadyFinished
from engine.result import Status
from engine.store import control
from engine.store.database import Database
from telemetry.queries import ExecutionFilter, ExecutionRecord, get_execution, list_executions

_STOP_SECONDS = 10.0
"""How long `cancel` waits for the execution to end; nodes get 5 s to clean up."""
_POLL_SECONDS = 0.2
_REASON = "cancelled from the command line"


@dataclass(frozen=True, slots=True)
class Filters:
    """What `spanloom executions` lists."""

    status: Sequence[str]
    template: str | None
    error_type: Sequence[str]
    since: datetime | None
    until: datetime | None
    limit: int


def list_all(filters: Filters, *, as_json: bool) -> int:
    """The newest executions."""
    settings = terminal.begin()
    unknown = [status for status in filters.status if status not in list(Status)]
    if unknown:
        wrong_use(f"{unknown[0]} is no status; use {', '.join(Status)}")
    wanted = ExecutionFilter(
        status=filters.status,
        template=filters.template,
        error_type=filters.error_type,
        since=filters.since,
        until=filters.until,
    )
    page = read(settings, lambda connection: list_executions(connection, wanted, limit=filters.limit))
    if as_json:
        items = [documents.summary(record, settings).model_dump(mode="json") for record in page.items]
        terminal.show_json({"items": items, "more": page.end is not None})
        return DONE
    console = terminal.console()
    terminal.show(executions_table(page.items, width=console.width))
    if page.end is not None:
        console.print(f"The newest {filters.limit} are shown; --limit shows more.", style="dim")
    return DONE


def show_one(id: str, *, as_json: bool) -> int:
    """The record of one execution."""
    settings = terminal.begin()
    record, row = read(settings, lambda connection: _with_control(connection, id))
    if as_json:
        terminal.show_json(documents.execution(record, row, settings).model_dump(mode="json"))
    else:
        terminal.show(execution_details(record, settings.trace_link(record.trace_id)))
    return DONE


def cancel_one(id: str, reason: str | None, *, as_json: bool) -> int:
    """Ask it to stop and wait a little. Raises `AlreadyFinished` for one that has ended in another way."""
    settings = terminal.begin()
    check_exists(settings)

    async def cancel() -> tuple[ExecutionRecord, control.ControlRow | None]:
        async with open_database(settings) as database:
            record = await _ask(database, id, reason or _REASON)
            return await _ended(database, record)

    record, row = asyncio.run(cancel())
    if as_json:
        terminal.show_json(documents.execution(record, row, settings).model_dump(mode="json"))
    elif record.status == Status.CANCELLED:
        print(f"{record.id} is cancelled.")
    elif Status(record.status).is_terminal:
        print(f"{record.id} had already ended: {record.status}.")
    else:
        print(f"{record.id} is asked to stop; it does once the process that runs it hears of it.")
    return DONE if record.status == Status.CANCELLED or not Status(record.status).is_terminal else BAD_NEWS


async def _with_control(connection: AsyncConnection, id: str) -> tuple[ExecutionRecord, control.ControlRow | None]:
    record = await find_execution(connection, id)
    return record, await control.get(connection, record.id, record.owner_id)


async def _ask(database: Database, id: str, reason: str) -> ExecutionRecord:
    async with database.read() as connection:
        record = await find_execution(connection, id)
    status = Status(record.status)
    if status.is_terminal and status is not Status.CANCELLED:
        raise AlreadyFinished(f"execution {record.id} has already ended: {record.status}")
    async with database.begin() as connection:
        await control.request_cancel(connection, record.id, record.owner_id, reason)
    return record


async def _ended(database: Database, record: ExecutionRecord) -> tuple[ExecutionRecord, control.ControlRow | None]:
    """The record once the execution has ended, or as it is when the time is over."""
    for _ in range(round(_STOP_SECONDS / _POLL_SECONDS)):
        async with database.read() as connection:
            record = await get_execution(connection, record.id, record.owner_id) or record
            row = await control.get(connection, record.id, record.owner_id)
        if Status(record.status).is_terminal:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return record, row

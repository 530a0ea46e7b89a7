"""Makes a long history at once: copies of one execution with all its rows, accepted and ended long ago."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, MetaData, String, Table, insert, literal, null, select
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import UtcTime
from engine.store.tables import execution_control
from telemetry.records.rollups import rebuild
from telemetry.store.tables import DIGEST_COLUMNS, executions, spans
from tests.telemetry.bookkeeper import Bookkeeper, an_id

_copies = Table(
    "history_copies",
    MetaData(),
    Column("id", String(36), primary_key=True),
    Column("at", UtcTime, nullable=False),
    prefixes=["TEMPORARY"],
)
_TIMES = {"queued_at", "started_at", "completed_at", "accepted_at", "root_started_at", "finished_at"}
_TELL_TIMES = {*DIGEST_COLUMNS, "subject"}
"""Columns with digests or copies of ids and times; older programs left them empty."""
PAGE = 5_000


async def make_history(keeper: Bookkeeper, number: int, *, since: timedelta, span: timedelta) -> None:
    """Executions whose acceptances are spread over `span`, from `since` ago on; the books agree."""
    story = await keeper.completed(record_level="nodes")  # without the attributes of spans, which tell times, too
    begin = datetime.now(UTC) - since
    made = [(an_id(at, n), at) for n in range(1, number + 1) for at in [begin + span * n / number]]
    for start in range(0, number, PAGE):
        async with keeper.database.begin() as connection:
            await _copy(connection, story.identity.execution_id, made[start : start + PAGE])
    async with keeper.database.begin() as connection:
        for table, id_ in _KEYED:
            await connection.execute(table.delete().where(table.c[id_] == story.identity.execution_id))
        await rebuild(connection)


_KEYED = ((execution_control, "execution_id"), (spans, "execution_id"), (executions, "id"))


async def _copy(connection: AsyncConnection, execution_id: str, copies: list[tuple[str, datetime]]) -> None:
    await connection.run_sync(_copies.create, checkfirst=False)
    await connection.execute(insert(_copies), [{"id": id_, "at": at} for id_, at in copies])
    for table, id_ in _KEYED:
        cells = {column.name: _cell(table, column.name, id_) for column in table.c}
        copied = select(*cells.values()).select_from(table.join(_copies, literal(True)))
        await connection.execute(insert(table).from_select(list(cells), copied.where(table.c[id_] == execution_id)))
    await connection.run_sync(_copies.drop)


def _cell(table: Table, name: str, id_: str) -> ColumnElement[Any]:
    """A cell of a copy: that of the original, but with an id and times of its own, and without other traces of them."""
    if name == id_:
        return _copies.c.id
    if name in _TIMES:
        return _copies.c.at
    return null() if name in _TELL_TIMES else table.c[name]

"""The journal makes signals durable with the decision they belong to, and loses none."""

from sqlalchemy import func, select

from telemetry.tables import executions, spans
from tests.telemetry.bookkeeper import Bookkeeper


async def test_a_finished_execution_can_be_read_at_once(keeper: Bookkeeper) -> None:
    story = await keeper.completed()

    async with keeper.database.read() as connection:
        row = (await connection.execute(select(executions))).one()
        stored = (await connection.execute(select(func.count()).select_from(spans))).scalar_one()
    assert (row.id, row.status, row.spans_expected, row.spans_stored) == (story.subject.execution_id, "completed", 6, 6)
    assert stored == 6

"""The API and the command line list executions and read one by its id."""

from datetime import timedelta

from sqlalchemy import delete, update

from engine.database.database import Database
from engine.store.tables import execution_control
from telemetry.reads.executions import ExecutionFilter, ExecutionPage, Seal, get_execution, list_executions
from telemetry.store.tables import executions
from tests.telemetry.bookkeeper import Bookkeeper


async def listed(database: Database, wanted: ExecutionFilter, **how: object) -> ExecutionPage:
    """A page of executions."""
    async with database.read() as connection:
        return await list_executions(connection, wanted, **how)  # type: ignore[arg-type]  # named by the callers


async def ids(database: Database, wanted: ExecutionFilter) -> list[str]:
    """The ids of a page."""
    return [item.id for item in (await listed(database, wanted)).items]


async def test_executions_are_listed_newest_first_page_by_page(keeper: Bookkeeper) -> None:
    made = [(await keeper.completed()).identity.execution_id for _ in range(5)]
    seen: list[str] = []
    page = await listed(keeper.database, ExecutionFilter(), limit=2)
    seen += [item.id for item in page.items]
    while page.end is not None:
        page = await listed(keeper.database, ExecutionFilter(), limit=2, after=page.end)
        seen += [item.id for item in page.items]
    assert seen == made[::-1]

    oldest = await listed(keeper.database, ExecutionFilter(), limit=3, oldest_first=True)
    assert [item.id for item in oldest.items] == made[:3]
    rest = await listed(keeper.database, ExecutionFilter(), limit=3, oldest_first=True, after=oldest.end)
    assert [item.id for item in rest.items] == made[3:]


async def test_executions_are_filtered(keeper: Bookkeeper) -> None:
    first = (await keeper.completed(correlation_id="c-9", conversation_id="talk")).identity.execution_id
    second = (await keeper.completed(owner="other", source="definition", workflow_name="slug")).identity.execution_id
    database = keeper.database
    async with database.read() as connection:
        record = await get_execution(connection, first, "default")
    assert record is not None
    day = timedelta(days=1)
    duration = record.duration_ms or 0

    one = [
        ExecutionFilter(owner="default"),
        ExecutionFilter(correlation_id="c-9"),
        ExecutionFilter(conversation_id="talk"),
        ExecutionFilter(source="template"),
        ExecutionFilter(trace_id=record.trace_id),
        ExecutionFilter(owner="default", template="answer", template_version=3),
        ExecutionFilter(owner="default", template="t-1"),
        ExecutionFilter(owner="default", status=["completed", "failed"]),
        ExecutionFilter(owner="default", since=record.queued_at, until=record.queued_at + day),
        ExecutionFilter(owner="default", duration_ms_min=duration, duration_ms_max=duration),
        ExecutionFilter(owner="default", cost_nano_usd_min=140_000, cost_nano_usd_max=140_000, unpriced=False),
    ]
    for wanted in one:
        assert await ids(database, wanted) == [first], wanted
    assert await ids(database, ExecutionFilter(definition="slug")) == [second]
    none = [
        ExecutionFilter(status=["failed"]),
        ExecutionFilter(error_type=["timeout"]),
        ExecutionFilter(unpriced=True),
        ExecutionFilter(retry_of=first),
        ExecutionFilter(until=record.queued_at - day),
        ExecutionFilter(definition="answer"),
    ]
    for wanted in none:
        assert await ids(database, wanted) == [], wanted


async def test_a_foreign_execution_is_unknown(keeper: Bookkeeper) -> None:
    story = await keeper.completed(owner="other")
    async with keeper.database.read() as connection:
        assert await get_execution(connection, story.identity.execution_id, "default") is None
        assert await get_execution(connection, story.identity.execution_id, None) is not None


async def test_without_a_record_control_answers_with_an_open_seal(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(delete(executions))
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert record is not None
    assert (record.status, record.trace_id, record.cost_nano_usd) == ("completed", story.tracker.trace_id, None)
    assert record.seal == Seal(None, 0)
    assert not record.seal.complete


async def test_control_is_right_where_the_record_lags_behind(keeper: Bookkeeper) -> None:
    story = await keeper.completed()
    async with keeper.database.begin() as connection:
        await connection.execute(update(executions).values(status="running", completed_at=None))
        await connection.execute(update(execution_control).values(status="failed"))
    async with keeper.database.read() as connection:
        record = await get_execution(connection, story.identity.execution_id, "default")
    assert record is not None
    assert record.status == "failed"
    assert record.completed_at is not None

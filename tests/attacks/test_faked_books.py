"""Reconcile finds what a clerk with SQL would fake, and names the execution and the column; honest books agree.

Each fake is planted in a copy of the books of real executions (`real_books.py`).
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database.base import metadata
from engine.database.database import Database
from engine.store.tables import execution_control
from telemetry.reconcile.audit import find_differences
from telemetry.reconcile.findings import Difference
from telemetry.store.tables import webhook_events
from tests.attacks.real_books import Ids, leave_unfinished, make_books
from tests.services.postgres.server import PostgresServer


@dataclass(frozen=True, slots=True)
class Fake:
    """What a clerk does: statements, in which names stand for ids, the execution that it is about, and the column."""

    name: str
    plant: "str | Plant"
    of: str
    """The name of the execution, or a part of the finding's subject."""
    column: str


Plant = Callable[[AsyncConnection, Ids], Awaitable[None]]


def cell(table: str, column: str, value: str, of: str = "agent", where: str = "", says: str = "") -> Fake:
    """A cell is changed."""
    key = "id" if table == "executions" else "execution_id"
    condition = f"{key} = '{{{of}}}'" + (f" AND {where}" if where else "")
    name = f"{table}.{column} of {of} = {value}"[:70]
    return Fake(name, f"UPDATE {table} SET {column} = {value} WHERE {condition}", of, says or column)


def span(column: str, value: str, kind: str = "model", of: str = "agent", says: str = "") -> Fake:
    """A cell of one span row is changed."""
    one = f"span_id = (SELECT max(span_id) FROM spans WHERE execution_id = '{{{of}}}' AND kind = '{kind}')"
    return cell("spans", column, value, of, one, says)


def record(column: str, value: str, of: str = "agent", says: str = "") -> Fake:
    """A cell of the record is changed."""
    return cell("executions", column, value, of, "", says)


def control(column: str, value: str, of: str = "agent", says: str = "") -> Fake:
    """A cell of the control row is changed."""
    return cell("execution_control", column, value, of, "", says)


def rollup(table: str, column: str, value: str, where: str = "model <> ''", says: str = "") -> Fake:
    """A cell of a roll-up row is changed."""
    bucket = "bucket_day" if table.endswith("daily") else "bucket_hour"
    newest = f"{bucket} = (SELECT max({bucket}) FROM {table} WHERE {where} AND workflow_name = 'case')"
    sql = f"UPDATE {table} SET {column} = {value} WHERE {newest} AND {where} AND workflow_name = 'case'"
    return Fake(f"{table}.{column} = {value}"[:70], sql, "=", says or column)


def added(table: str, name: str, where: str, of: str, column: str, **changes: str) -> Fake:
    """A row is copied with other cells."""

    async def plant(connection: AsyncConnection, ids: Ids) -> None:
        names = metadata.tables[table].columns.keys()
        cells = ", ".join(changes.get(name, name) for name in names)
        statement = f"INSERT INTO {table} ({', '.join(names)}) SELECT {cells} FROM {table} WHERE {where}"
        await connection.execute(text(statement.format(**ids)))

    return Fake(f"{name} is added to {table}", plant, of, column)


def document(column: str, key: str, value: object, of: str = "agent") -> Fake:
    """A field of a JSON document of the control row is changed."""

    async def plant(connection: AsyncConnection, ids: Ids) -> None:
        c = execution_control.c
        mine = c.execution_id == ids[of]
        old = (await connection.execute(select(c[column]).where(mine))).scalar_one()
        await connection.execute(update(execution_control).where(mine).values({column: {**old, key: value}}))

    return Fake(f"{column}.{key} of {of} = {value}", plant, of, key)


def body(path: str, value: object, says: str, of: str = "agent") -> Fake:
    """A field of the body of the closing event is changed."""

    async def plant(connection: AsyncConnection, ids: Ids) -> None:
        c = webhook_events.c
        mine = (c.execution_id == ids[of], c.event_type == "workflow.execution.completed")
        told = orjson.loads((await connection.execute(select(c.body).where(*mine))).scalar_one())
        inner = told["data"]
        *groups, name = path.split(".")
        for group in groups:
            inner = inner[group]
        inner[name] = value
        await connection.execute(update(webhook_events).where(*mine).values(body=orjson.dumps(told)))

    return Fake(f"a body says {path} {value}", plant, of, says)


async def break_body(connection: AsyncConnection, ids: Ids) -> None:
    """The body of an event becomes something else."""
    mine = webhook_events.c.execution_id == ids["agent"]
    await connection.execute(update(webhook_events).where(mine).values(body=b"{"))


_CALLS = "(SELECT {0}(span_id) FROM spans WHERE execution_id = '{{agent}}' AND cost_nano_usd > 0)"
_FIRST, _LAST = _CALLS.format("min"), _CALLS.format("max")
_NOW = "'2026-01-01 00:00:00.000000'"
_GHOST = "01a00000-0000-7000-8000-000000000001"
_LATER = "0fffffff-0000-7000-8000-000000000001"
_ONE_NODE = "span_id = (SELECT max(span_id) FROM spans WHERE execution_id = '{agent}' AND kind = 'tool')"

SPANS = [
    span("status", "'failed'", "node", says="status"),
    span("status", "'failed'", "tool", "collected"),
    span("name", "'chat cheap'"),
    span("kind", "'retrieval'", "tool"),
    span("parent_span_id", "'00000000000000ff'"),
    span("parent_span_id", "NULL", "tool"),
    span("trace_id", "'000000000000000000000000000000ff'"),
    span("attempt", "7"),
    span("node_id", "'other'"),
    span("node_type", "'other'"),
    span("node_attempt", "9"),
    span("path", "'other/path'"),
    span("started_at", _NOW),
    span("started_nanos", "(started_nanos + 1) % 1000"),
    span("duration_us", "duration_us + 1"),
    span("duration_us", "0", "workflow"),
    span("provider", "'other'"),
    span("model", "'cheap'"),
    span("input_tokens", "1"),
    span("output_tokens", "1"),
    span("cache_read_tokens", "1"),
    span("cache_write_tokens", "1"),
    span("reasoning_tokens", "1"),
    span("cost_nano_usd", "1"),
    span("cost_nano_usd", "NULL"),
    span("cost_source", "'override'"),
    span("price_version", "'2020-01-01'"),
    span("waste", "'failed'", of="chat"),
    cell("spans", "waste", "NULL", "cancelled", "waste IS NOT NULL"),
    span("error_type", "'timeout'", of="chat"),
    span("error_type", "NULL", "workflow", "failed"),
    span("attributes", "'{{}}'", "workflow"),
    span("attributes", "NULL"),
    span("owner_id", "'somebody'"),
    span("owner_id", "'somebody'", of="summary"),
    span("duration_us", "0", of="summary"),
    span("model", "'cheap'", of="nodes"),
    span("price_version", "'2020-01-01'", of="lost"),
    span("span_id", "'00000000000000ff'", "tool"),
    Fake(
        "a tool's span is removed",
        "DELETE FROM spans WHERE execution_id = '{agent}' AND kind = 'tool'",
        "agent",
        "spans_stored",
    ),
    Fake("a call's span is removed", f"DELETE FROM spans WHERE span_id = {_LAST}", "agent", "cost_nano_usd"),
    Fake(
        "one span is removed", "DELETE FROM spans WHERE execution_id = '{agent}' AND " + _ONE_NODE, "agent", "span_id"
    ),
    Fake(
        "the root is removed",
        "DELETE FROM spans WHERE execution_id = '{chat}' AND kind = 'workflow'",
        "chat",
        "root_span_id",
    ),
    Fake("all spans are removed", "DELETE FROM spans WHERE execution_id = '{chat}'", "chat", "model_calls"),
    added("spans", "a call", f"span_id = {_LAST}", "agent", "span_id", span_id="'00000000000000ff'"),
    Fake(
        "a span is moved to another execution",
        "UPDATE spans SET execution_id = '{chat}' WHERE execution_id = '{agent}' AND " + _ONE_NODE,
        "chat",
        "span_id",
    ),
    Fake(
        "two calls change their durations",
        f"UPDATE spans SET duration_us = duration_us + CASE WHEN span_id = {_FIRST} THEN 1000 ELSE -1000 END"
        f" WHERE span_id IN ({_FIRST}, {_LAST})",
        "agent",
        "duration_us",
    ),
    Fake(
        "all failures succeed",
        "UPDATE spans SET status = 'completed' WHERE execution_id = '{agent}'",
        "agent",
        "status",
    ),
    Fake(
        "all calls are of another model",
        "UPDATE spans SET model = 'x' WHERE execution_id = '{agent}'",
        "agent",
        "model",
    ),
    Fake(
        "several columns of a row are changed",
        f"UPDATE spans SET path = 'x', node_id = 'y' WHERE span_id = {_LAST}",
        "agent",
        "digest",
    ),
    Fake(
        "a span is removed and the record counts one less",
        "DELETE FROM spans WHERE execution_id = '{agent}' AND " + _ONE_NODE + ";"
        "UPDATE executions SET spans_stored = spans_stored - 1, spans_expected = spans_expected - 1"
        " WHERE id = '{agent}'",
        "agent",
        "span_id",
    ),
    Fake(
        "a cost is lowered in every book",
        f"UPDATE spans SET cost_nano_usd = cost_nano_usd - 5 WHERE span_id = {_LAST};"
        "UPDATE executions SET cost_nano_usd = cost_nano_usd - 5, cost_upper_nano_usd = cost_upper_nano_usd - 5"
        " WHERE id = '{agent}';"
        "UPDATE execution_rollups SET cost_nano_usd = cost_nano_usd - 5 WHERE workflow_name = 'case' AND model <> ''"
        " AND source = 'template';"
        "UPDATE execution_rollups_daily SET cost_nano_usd = cost_nano_usd - 5 WHERE workflow_name = 'case'"
        " AND model <> '' AND source = 'template'",
        "agent",
        "cost_nano_usd",
    ),
    Fake(
        "a row of no execution is added",
        f"UPDATE spans SET execution_id = '{_GHOST}' WHERE span_id = {_LAST}",
        _GHOST,
        "execution_id",
    ),
    record("digest", "NULL"),
    record("digest", "digest + 1"),
    record("digest_spans", "digest_spans - 1", says="digest"),
    record("digest_by_column", "0", says="digest"),
]

RECORDS = [
    record("status", "'failed'"),
    record("status", "'completed'", "cancelled"),
    record("status", "'running'", "chat"),
    record("rank", "1"),
    record("attempt", "2"),
    record("attempt", "1", "lost"),
    record("seq", "seq + 1", says="event_id"),
    record("owner_id", "'somebody'"),
    record("workflow_name", "'other'"),
    record("workflow_source", "'chat'"),
    record("template_id", "'other'"),
    record("template_version", "9"),
    record("definition_id", "'other'"),
    record("graph_hash", "'sha256:00'"),
    record("conversation_id", "'other'"),
    record("correlation_id", "'other'"),
    record("trace_id", "'000000000000000000000000000000ff'"),
    record("root_span_id", "'00000000000000ff'"),
    record("trigger", "'schedule'"),
    record("streaming", "NOT streaming"),
    record("record_level", "'nodes'"),
    record("queued_at", _NOW),
    record("started_at", _NOW),
    record("completed_at", _NOW),
    record("completed_at", "NULL"),
    record("completed_at", _NOW, "abandoned"),
    record("duration_ms", "duration_ms + 1"),
    record("duration_ms", "duration_ms + 1000", "abandoned"),
    record("time_to_first_token_ms", "77"),
    record("time_queue_ms", "time_queue_ms + 1", says="duration_ms"),
    record("time_model_ms", "time_model_ms + 1, time_engine_ms = time_engine_ms - 1", says="time_model_ms"),
    record("time_tool_ms", "time_tool_ms + 1, time_engine_ms = time_engine_ms - 1", says="time_tool_ms"),
    record("time_retry_ms", "time_retry_ms + 1, time_engine_ms = time_engine_ms - 1", says="time_retry_ms"),
    record("time_human_ms", "time_human_ms + 1, time_engine_ms = time_engine_ms - 1", says="time_human_ms"),
    record("time_engine_ms", "time_engine_ms + 1", says="duration_ms"),
    record("input_tokens", "1"),
    record("output_tokens", "NULL"),
    record("cache_read_tokens", "1"),
    record("cache_write_tokens", "NULL"),
    record("reasoning_tokens", "1"),
    record("cost_nano_usd", "1"),
    record("cost_nano_usd", "NULL"),
    record("unpriced_calls", "3"),
    record("unmetered_calls", "3"),
    record("failed_calls", "3"),
    record("assumed_calls", "3"),
    record("waste_nano_usd", "3"),
    record("unfinished_calls", "1"),
    record("unfinished_calls", "0", "lost"),
    record("cost_upper_nano_usd", "cost_upper_nano_usd + 1"),
    record("cost_upper_nano_usd", "cost_upper_nano_usd - 1", "lost"),
    record("model_calls", "1"),
    record("tool_calls", "1"),
    record("tool_calls", "0", "collected"),
    record("nodes_total", "1"),
    record("nodes_failed", "5"),
    record("nodes_retried", "5"),
    record("spans_expected", "1"),
    record("spans_stored", "1"),
    record("seal", "'00'"),
    record("seal", "NULL"),
    record("error_type", "'timeout'"),
    record("error_type", "'rate_limited'", "failed"),
    record("error_class", "'caller'", "failed"),
    record("error_message", "'nothing'", "failed"),
    record("error_node_id", "'other'", "failed"),
    record("cancel_reason", "'other'", "cancelled"),
    record("cancel_reason", "'other'", "abandoned"),
    record("retry_of", "'other'"),
    record("tags", '\'{{"team": "b"}}\''),
    record("params", '\'{{"style": "long"}}\'', "cancelled"),
    record("nodes_total", "1", "nodes"),
    record("tool_calls", "4", "summary"),
    record("duration_ms", "duration_ms + 1, time_engine_ms = time_engine_ms + 1", "summary", says="duration_ms"),
    Fake("a record is removed", "DELETE FROM executions WHERE id = '{chat}'", "chat", "id"),
    added("executions", "a record", "id = '{chat}'", _GHOST, "execution_id", id=f"'{_GHOST}'"),
    added("executions", "a record to come", "id = '{chat}'", _LATER, "id", id=f"'{_LATER}'"),
]

_DIGITS = "00000000-0000-7000-8000-000000000000"

CONTROL = [
    Fake(
        "a control row is removed",
        "DELETE FROM execution_control WHERE execution_id = '{chat}'",
        "chat",
        "execution_id",
    ),
    control("status", "'failed'"),
    control("attempt", "attempt + 1"),
    control("owner_id", "'somebody'"),
    control("trace_id", "'000000000000000000000000000000ff'"),
    control("root_span_id", "'00000000000000ff'"),
    control("workflow_name", "'other'"),
    control("source", "'chat'", says="workflow_source"),
    control("graph_hash", "'sha256:00'"),
    control("correlation_id", "'other'"),
    control("conversation_id", "'other'", "cancelled"),
    Fake(
        "a control row is open again",
        "UPDATE execution_control SET status = 'running', finished_at = NULL WHERE execution_id = '{agent}'",
        "agent",
        "status",
    ),
    document("result", "cost_nano_usd", 1),
    document("result", "status", "completed", "failed"),
    document("result", "duration_ms", 0, "approved"),
    document("result", "tool_calls", 0),
    document("result", "error_type", "timeout"),
    document("result", "unfinished_calls", 4),
    document("subject", "tags", {"team": "b"}),
    document("subject", "trigger", "schedule"),
    Fake(
        "a part is left behind",
        "INSERT INTO journalled (execution_id, attempt, number, span_ids, totals) VALUES ('{chat}', 1, 1, '', '{{}}')",
        "chat",
        "journalled",
    ),
    Fake(
        "a reservation is left behind",
        "INSERT INTO call_reservations (execution_id, call_id, attempt, provider, model, upper_tokens, at)"
        f" VALUES ('{{chat}}', 'x', 1, 'p', 'm', 1, {_NOW})",
        "chat",
        "call_reservations",
    ),
    Fake(
        "a question is left behind",
        "INSERT INTO approvals"
        " (approval_id, execution_id, owner_id, node_id, path, prompt, choices, expires_at, created_at)"
        f" VALUES ('x', '{{chat}}', 'default', 'n', 'n', '?', '[]', {_NOW}, {_NOW})",
        "chat",
        "approvals",
    ),
]

_END = "event_type = 'workflow.execution.completed'"
_OF_AGENT = "event_id = (SELECT event_id FROM webhook_events WHERE execution_id = '{agent}' AND " + _END + ")"

WEBHOOKS = [
    Fake(
        "an event is removed",
        f"DELETE FROM webhook_events WHERE execution_id = '{{agent}}' AND {_END}",
        "agent",
        "event_id",
    ),
    Fake("a delivery is removed", f"DELETE FROM webhook_deliveries WHERE {_OF_AGENT}", "agent", "endpoint_id"),
    cell("webhook_events", "owner_id", "'somebody'", where=_END),
    cell("webhook_events", "event_type", "'workflow.execution.failed'", where=_END),
    cell("webhook_events", "at", _NOW, where=_END),
    cell("webhook_deliveries", "owner_id", "'somebody'", where=_OF_AGENT),
    cell("webhook_deliveries", "event_type", "'workflow.execution.failed'", where=_OF_AGENT),
    Fake(
        "a delivery is of another execution",
        f"UPDATE webhook_deliveries SET execution_id = '{{chat}}' WHERE {_OF_AGENT}",
        "agent",
        "execution_id",
    ),
    Fake(
        "a delivery has another id",
        f"DELETE FROM webhook_attempts; UPDATE webhook_deliveries SET id = '{_DIGITS}' WHERE {_OF_AGENT}",
        "agent",
        "id",
    ),
    Fake(
        "a delivery was never taken",
        f"UPDATE webhook_deliveries SET last_status = NULL WHERE {_OF_AGENT}",
        "agent",
        "state",
    ),
    added(
        "webhook_events",
        "a second end",
        f"execution_id = '{{agent}}' AND {_END}",
        "agent",
        "event_id",
        event_id=f"'{_DIGITS}'",
    ),
    Fake(
        "an event is of no execution",
        f"UPDATE webhook_events SET execution_id = '{_GHOST}' WHERE {_OF_AGENT}",
        _GHOST,
        "execution_id",
    ),
    Fake("a body is no JSON", break_body, "agent", "body"),
    body("status", "failed", "body.status"),
    body("cost_nano_usd", 1, "body.cost_nano_usd"),
    body("waste_nano_usd", 7, "body.waste_nano_usd"),
    body("model_calls", 1, "body.model_calls"),
    body("tool_calls", 1, "body.tool_calls"),
    body("usage.input_tokens", 1, "body.input_tokens"),
    body("nodes.retried", 7, "body.nodes_retried"),
    body("seal.hash", "00", "body.seal"),
    body("seal.expected", 1, "body.spans_expected"),
    body("duration_ms", 0, "body.duration_ms"),
    body("completed_at", "2026-01-01T00:00:00Z", "body.completed_at"),
    body("trace_id", "00", "body.trace_id"),
    body("owner", "somebody", "body.owner"),
    body("attempt", 3, "event_id"),
]

_LETTER = (
    "INSERT INTO dead_letter (id, consumer, execution_id, signal, reason, at)"
    f" VALUES ('x', '{{0}}', '{{{{chat}}}}', '{{{{{{{{\"type\": \"event\"}}}}}}}}', 'r', {_NOW})"
)

STRAYS = [
    Fake("a record's letter is open", _LETTER.format("records"), "chat", "records"),
    Fake("a webhook's letter is open", _LETTER.format("webhooks"), "chat", "webhooks"),
]

_ENDS = "model = '' AND source = 'template'"
_A_ROW = "model <> '' AND workflow_name = 'case' AND source = 'template'"
_HOURS, _DAYS = "execution_rollups", "execution_rollups_daily"

ROLLUPS = [
    *(
        rollup(_HOURS, column, f"{column} + 1", where)
        for column, where in (
            ("executions_completed", _ENDS),
            ("executions_failed", _ENDS),
            ("executions_cancelled", _ENDS),
            ("executions_failed_by_caller", _ENDS),
            ("duration_sum_ms", _ENDS),
            ("duration_le_inf", _ENDS),
            ("input_tokens", "model <> ''"),
            ("output_tokens", "model <> ''"),
            ("cache_read_tokens", "model <> ''"),
            ("cache_write_tokens", "model <> ''"),
            ("reasoning_tokens", "model <> ''"),
            ("cost_nano_usd", "model <> ''"),
            ("waste_nano_usd", "model <> ''"),
            ("unpriced_calls", "model <> ''"),
            ("unmetered_calls", "model <> ''"),
            ("failed_calls", "model <> ''"),
            ("unfinished_calls", _ENDS),
            ("unbounded_calls", _ENDS),
            ("cost_upper_nano_usd", _ENDS),
            ("assumed_calls", "model <> ''"),
            ("assumed_nano_usd", "model <> ''"),
            ("provider_difference_nano_usd", "model <> ''"),
            ("model_calls", "model <> ''"),
        )
    ),
    rollup(_HOURS, "last_used_at", _NOW, _ENDS),
    rollup(_HOURS, "last_success_at", "NULL", _ENDS),
    rollup(_HOURS, "last_failure_at", _NOW, _ENDS),
    rollup(_HOURS, "model", "'cheap'", says="cost_nano_usd"),
    rollup(_HOURS, "owner_id", "'somebody'", says="cost_nano_usd"),
    rollup(_HOURS, "template_version", "9", says="cost_nano_usd"),
    rollup(_HOURS, "bucket_hour", "'1999-01-01 00:00:00.000000'", says="cost_nano_usd"),
    *(
        rollup(_DAYS, column, f"{column} + 1", where)
        for column, where in (
            ("executions_completed", _ENDS),
            ("duration_sum_ms", _ENDS),
            ("input_tokens", "model <> ''"),
            ("cost_nano_usd", "model <> ''"),
            ("waste_nano_usd", "model <> ''"),
        )
    ),
    rollup(_DAYS, "last_used_at", _NOW, _ENDS),
    rollup(_DAYS, "bucket_day", "'1999-01-01 00:00:00.000000'", says="cost_nano_usd"),
    Fake(
        "an hour is removed",
        "DELETE FROM execution_rollups WHERE model = ''",
        "workflow_name=case",
        "executions_completed",
    ),
    Fake(
        "a day is removed",
        "DELETE FROM execution_rollups_daily WHERE model <> ''",
        "workflow_name=case",
        "cost_nano_usd",
    ),
    added(_HOURS, "an hour", _A_ROW, "2026-02-01T07Z", "cost_nano_usd", bucket_hour="'2026-02-01 07:00:00.000000'"),
    added(
        _HOURS, "an hour to come", _A_ROW, "2099-02-01T07Z", "cost_nano_usd", bucket_hour="'2099-02-01 07:00:00.000000'"
    ),
    added(_DAYS, "a day to come", _A_ROW, "2099-02-01", "cost_nano_usd", bucket_day="'2099-02-01 00:00:00.000000'"),
    added(_HOURS, "another owner", _A_ROW, "owner_id=somebody", "cost_nano_usd", owner_id="'somebody'"),
]

FAKES = [*SPANS, *RECORDS, *CONTROL, *WEBHOOKS, *STRAYS, *ROLLUPS]


@dataclass(frozen=True, slots=True)
class Books:
    """Books that are only copied."""

    url: str
    ids: Ids


def _in_thread(make: Callable[[], Ids]) -> Ids:
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(make).result()


@pytest.fixture(scope="module")
def sqlite_books(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Books:
    """The books in a SQLite file."""
    file = tmp_path_factory.mktemp("books") / "books.sqlite"
    shutil.copy(sqlite_template, file)
    url = f"sqlite:///{file}"
    return Books(url, _in_thread(lambda: asyncio.run(make_books(url))))


@pytest.fixture(scope="module")
def postgres_books(postgres_template: str, postgres_server: PostgresServer) -> Iterator[Books]:
    """The books in a PostgreSQL database, with a copy of each table in the schema `kept`."""
    url = postgres_server.create_database(template=postgres_template)
    ids = _in_thread(lambda: asyncio.run(make_books(url)))
    _in_thread(
        lambda: asyncio.run(_execute(url, "CREATE SCHEMA kept", *_for_each("CREATE TABLE kept.{0} AS TABLE {0}")))
    )
    yield Books(url, ids)
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def books(request: pytest.FixtureRequest, tmp_path: Path, books_left_open: None) -> AsyncIterator[Books]:
    """The books as they were made."""
    made: Books = request.getfixturevalue(f"{request.param}_books")
    if request.param == "sqlite":
        copy = tmp_path / "copy.sqlite"
        shutil.copy(made.url.removeprefix("sqlite:///"), copy)
        yield Books(f"sqlite:///{copy}", made.ids)
        return
    yield made
    again = [*_for_each("DELETE FROM {0}")[::-1], *_for_each("INSERT INTO {0} SELECT * FROM kept.{0}")]
    await _execute(made.url, *again)


def _for_each(statement: str) -> list[str]:
    """The statement for each table, in the order of their foreign keys."""
    return [statement.format(table.name) for table in metadata.sorted_tables]


async def _execute(url: str, *statements: str) -> Ids:
    async with Database(url) as database, database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    return {}


async def differences(books: Books, *fakes: Fake) -> list[Difference]:
    """What reconcile finds after these fakes."""
    async with Database(books.url) as database:
        for fake in fakes:
            async with database.begin() as connection:
                if isinstance(fake.plant, str):
                    for statement in fake.plant.split(";"):
                        await connection.execute(text(statement.format(**books.ids).replace(":", "\\:")))
                else:
                    await fake.plant(connection, books.ids)
        return list(await find_differences(database))


async def test_honest_books_agree(books: Books) -> None:
    assert await differences(books) == []


async def test_unfinished_executions_are_no_differences(books: Books) -> None:
    await leave_unfinished(books.url)
    assert await differences(books) == []


@pytest.mark.parametrize(
    ("books", "fake"),
    [
        *(pytest.param("sqlite", fake, id=f"sqlite-{fake.name}") for fake in FAKES),
        *(
            pytest.param("postgres", fake, id=f"postgres-{fake.name}", marks=pytest.mark.postgres)
            for fake in FAKES[::4]
        ),
    ],
    indirect=["books"],
)
async def test_a_fake_is_found_and_named(books: Books, fake: Fake) -> None:
    found = await differences(books, fake)
    subject = books.ids.get(fake.of, fake.of)
    named = [each for each in found if subject in each.subject and each.column == fake.column]
    assert named, "\n".join(map(str, found)) or "nothing was found"
    assert all(each.cause for each in found)


def test_there_are_more_fakes_than_the_first_verification_planted() -> None:
    assert len(FAKES) >= 72 + 40
    assert [name for name, count in Counter(fake.name for fake in FAKES).items() if count > 1] == []

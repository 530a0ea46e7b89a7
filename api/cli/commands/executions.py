"""`spanloom executions` and `spanloom scores`: list, show, score, cancel, resume, retry, forget."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli import interrupts, terminal
from api.cli.database_reads import check_exists, find_execution, read
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.content import content_view
from api.cli.rendering.scores import means_table, scores_view
from api.cli.rendering.tables import execution_details, executions_table, question_view
from api.operations.approve import answer, open_questions
from api.operations.retry import read_original
from api.schemas import executions
from api.schemas.decisions import ResumeBody
from api.schemas.scores import ScoreBody
from api.settings import Settings
from api.wiring.database import open_database
from api.wiring.recovery import open_eraser, open_scoring, open_sweeper
from api.wiring.runtime import open_runtime
from engine.database.database import Database
from engine.documents.strict_json import MalformedJson, read_json
from engine.errors import AlreadyFinished, NotPaused
from engine.graph import Json
from engine.request import Caller
from engine.result import Approval, Status
from engine.retention import erasure
from engine.store import control
from telemetry.reads.executions import ExecutionFilter, ExecutionRecord, get_execution, list_executions
from telemetry.reads.scores import GivenScore, Score, ScoreFilter, list_scores, mean_scores

_STOP_SECONDS = 10.0
"""How long `cancel` waits for the execution to end. Nodes have 5 s to clean up."""
_POLL_SECONDS = 0.2
_REASON = "cancelled from the command line"


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of `spanloom executions`."""

    status: Sequence[str]
    template: str | None
    error_type: Sequence[str]
    since: datetime | None
    until: datetime | None
    limit: int


def list_all(filters: Filters, *, as_json: bool) -> int:
    """List the newest executions."""
    settings = terminal.begin()
    unknown = [status for status in filters.status if status not in list(Status)]
    if unknown:
        wrong_use(f"Unknown status {unknown[0]!r}. Valid statuses: {', '.join(Status)}.")
    wanted = ExecutionFilter(
        status=filters.status,
        template=filters.template,
        error_type=filters.error_type,
        since=filters.since,
        until=filters.until,
    )
    page = read(settings, lambda connection: list_executions(connection, wanted, limit=filters.limit))
    if as_json:
        items = [executions.summary(record, settings).model_dump(mode="json") for record in page.items]
        terminal.show_json({"items": items, "more": page.end is not None})
        return DONE
    console = terminal.console()
    terminal.show(executions_table(page.items, width=console.width))
    if page.end is not None:
        console.print(f"Only the newest {filters.limit} are shown. Use --limit to show more.", style="dim")
    return DONE


def show_one(id: str, *, as_json: bool) -> int:
    """Show the record of one execution, and its scores."""
    settings = terminal.begin()
    found, scores = read(settings, lambda connection: _with_scores(connection, id))
    document = found.document(settings)
    if as_json:
        terminal.show_json(document.model_dump(mode="json") | {"scores": [asdict(score) for score in scores]})
        return DONE
    record, row = found.record, found.row
    is_answered = row is not None and row.claim_reason == "answer" and not row.is_leased
    terminal.show(execution_details(record, settings.trace_link(record.trace_id), is_answered=is_answered))
    terminal.console().print(content_view(document), soft_wrap=True)
    if scores:
        terminal.show(scores_view(scores))
    for question in found.asked:
        terminal.show(question_view(record.id, question))
    return DONE


def forget_one(id: str, *, as_json: bool) -> int:
    """Delete the content of an ended execution. Raises `NotFinished` or `ConversationBusy`."""
    settings = terminal.begin()
    check_exists(settings)

    async def forget() -> Detailed:
        async with open_database(settings) as database, open_eraser(settings, database) as eraser:
            async with database.read() as connection:
                record = await find_execution(connection, id)
            await eraser.erase([record.id], "forgotten")
            async with database.read() as connection:
                return await _with_control(connection, record.id)

    forgotten = interrupts.run(forget())
    if as_json:
        terminal.show_json(forgotten.document(settings).model_dump(mode="json"))
    else:
        print(f"Forgot what execution {forgotten.record.id} was asked and answered. Its numbers stay.")
    return DONE


def give_score(id: str, name: str, value: str, source: str, comment: str | None, *, as_json: bool) -> int:
    """Give an execution a score. Raises `NotFound`."""
    settings = terminal.begin()
    given = _given(name, value, source, comment)
    check_exists(settings)

    async def give() -> Score:
        async with open_database(settings) as database:
            async with database.read() as connection:
                record = await find_execution(connection, id)
            async with open_scoring(settings, database, terminal.patience()) as scoring:
                return await scoring.give(record.id, record.owner_id, given)

    score = interrupts.run(give())
    if as_json:
        terminal.show_json(asdict(score))
    else:
        terminal.show(scores_view([score]))
    return DONE


def show_scores(
    name: str | None, template: str | None, since: datetime | None, until: datetime | None, *, as_json: bool
) -> int:
    """Print mean scores."""
    settings = terminal.begin()
    wanted = ScoreFilter(name=name, template=template, since=since, until=until)
    found = read(settings, lambda connection: mean_scores(connection, wanted))
    if as_json:
        terminal.show_json({"rows": [asdict(one) for one in found]})
    else:
        terminal.show(means_table(found))
    return DONE


def cancel_one(id: str, reason: str | None, *, as_json: bool) -> int:
    """Request cancellation and wait for the end. Raises `AlreadyFinished` if it completed or failed before."""
    settings = terminal.begin()
    check_exists(settings)

    async def cancel() -> tuple[ExecutionRecord, control.ControlRow | None]:
        async with open_database(settings) as database, open_sweeper(settings, database) as sweeper:
            record = await _ask(database, id, reason or _REASON)
            await sweeper.cancel(record.id, record.owner_id, reason or _REASON)
            return await _ended(database, record)

    record, row = interrupts.run(cancel())
    if as_json:
        terminal.show_json(executions.execution(record, row, [], settings).model_dump(mode="json"))
    elif record.status == Status.CANCELLED:
        print(f"Execution {record.id} is cancelled.")
    elif Status(record.status).is_terminal:
        print(f"Execution {record.id} had already ended: {record.status}.")
    else:
        print(f"Execution {record.id} was asked to stop. It stops when the process that runs it reads the request.")
    return DONE if record.status == Status.CANCELLED or not Status(record.status).is_terminal else BAD_NEWS


def resume_one(id: str, choice: str, approval_id: str | None, data: str | None, *, as_json: bool) -> int:
    """Answer the open question. Raises `NotPaused`, `AlreadyAnswered`, `InvalidAnswer`, or `WrongUse`."""
    settings = terminal.begin()
    check_exists(settings)
    value = _data(data)

    async def resume() -> Detailed:
        async with open_database(settings) as database:
            async with database.begin() as connection:
                record = await find_execution(connection, id)
                asked = approval_id or await _only_question(connection, record)
                given = ResumeBody(approval_id=asked, choice=choice, data=value)
                await answer(connection, record.id, record.owner_id, given, answered_by=record.owner_id)
            async with database.read() as connection:
                return await _with_control(connection, record.id)

    answered = interrupts.run(resume())
    if as_json:
        terminal.show_json(answered.document(settings).model_dump(mode="json"))
    else:
        record = answered.record
        print(f"Execution {record.id} is answered. It continues when a `spanloom serve` is running on this database.")
    return DONE


def retry_one(id: str, *, as_json: bool) -> int:
    """Queue a finished execution again. Raises `NotFinished` or `InputGone`."""
    settings = terminal.begin()
    check_exists(settings)

    async def retry() -> Detailed:
        async with open_runtime(settings) as runtime:
            async with runtime.database.read() as connection:
                record = await find_execution(connection, id)
                asked = await read_original(connection, record.id, record.owner_id)
            caller = Caller(owner=record.owner_id, trigger="cli", any_folder=True)
            again = await runtime.engine.enqueue_again(
                asked.identity, asked.request, asked.graph, caller, root=asked.first_root
            )
            return await read_queued(runtime.database, again)

    return show_queued(settings, interrupts.run(retry()), as_json=as_json)


def show_queued(settings: Settings, queued: "Detailed", *, as_json: bool) -> int:
    """Print the id on stdout and the next step on stderr."""
    record = queued.record
    if as_json:
        terminal.show_json(queued.document(settings).model_dump(mode="json"))
    else:
        print(record.id)
        print(
            "Queued. It starts when a `spanloom serve` is running on this database. "
            f"To follow it: spanloom trace {record.id} --follow",
            file=sys.stderr,
        )
    return DONE


@dataclass(frozen=True, slots=True)
class Detailed:
    """An execution as it is shown: its record, its control row, its open questions, and why its content is gone."""

    record: ExecutionRecord
    row: control.ControlRow | None
    asked: list[Approval]
    gone: executions.Content | None

    def document(self, settings: Settings) -> executions.Execution:
        """The execution as the API shows it."""
        return executions.execution(self.record, self.row, self.asked, settings, self.gone)


async def _with_control(connection: AsyncConnection, id: str) -> Detailed:
    record = await find_execution(connection, id)
    row = await control.get(connection, record.id, record.owner_id)
    return Detailed(record, row, await open_questions(connection, row), await erasure.why_gone(connection, record.id))


async def _with_scores(connection: AsyncConnection, id: str) -> tuple[Detailed, list[Score]]:
    found = await _with_control(connection, id)
    return found, await list_scores(connection, found.record.id)


async def read_queued(database: Database, execution_id: str) -> Detailed:
    """Read an execution that has just been queued."""
    async with database.read() as connection:
        return await _with_control(connection, execution_id)


async def _only_question(connection: AsyncConnection, record: ExecutionRecord) -> str:
    row = await control.get(connection, record.id, record.owner_id)
    asked = await open_questions(connection, row)
    if not asked:
        raise NotPaused(f"Execution {record.id} is not waiting for an answer: it is {record.status}.")
    if len(asked) > 1:
        ids = ", ".join(question.approval_id for question in asked)
        wrong_use(f"The execution asks {len(asked)} questions. Choose one with --approval: {ids}")
    return asked[0].approval_id


def _data(text: str | None) -> Json:
    try:
        return None if text is None else read_json(text.encode("utf-8", "surrogatepass"))
    except MalformedJson as error:
        wrong_use(f"--data: {error}")


async def _ask(database: Database, id: str, reason: str) -> ExecutionRecord:
    async with database.read() as connection:
        record = await find_execution(connection, id)
    status = Status(record.status)
    if status.is_terminal and status is not Status.CANCELLED:
        raise AlreadyFinished(f"Execution {record.id} has already ended: {record.status}.")
    async with database.begin() as connection:
        await control.request_cancel(connection, record.id, record.owner_id, reason)
    return record


async def _ended(database: Database, record: ExecutionRecord) -> tuple[ExecutionRecord, control.ControlRow | None]:
    """The record when the execution has ended, or when the waiting time is over."""
    for _ in range(round(_STOP_SECONDS / _POLL_SECONDS)):
        async with database.read() as connection:
            record = await get_execution(connection, record.id, record.owner_id) or record
            row = await control.get(connection, record.id, record.owner_id)
        if Status(record.status).is_terminal:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return record, row


def _given(name: str, value: str, source: str, comment: str | None) -> GivenScore:
    """The score, by the rules of the HTTP API."""
    try:
        return ScoreBody.model_validate(
            {"name": name, "value": _number_or_label(value), "source": source, "comment": comment}
        ).given()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        # Of a value it is said what is wrong with it as a number, then as a label.
        wrong = problems[0] if isinstance(_number_or_label(value), float) else problems[-1]
        wrong_use(f"--{wrong['loc'][0]}: {wrong['msg']}.")


def _number_or_label(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text

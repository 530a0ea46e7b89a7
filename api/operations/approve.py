"""Answers the question of a paused execution. The first answer counts and lets the execution continue."""

from sqlalchemy.ext.asyncio import AsyncConnection

from api.schemas.decisions import ResumeBody
from engine.errors import AlreadyAnswered, InvalidAnswer, NotFound, NotPaused
from engine.ledger import GivenAnswer
from engine.pause import answer_problem
from engine.result import Approval, Status
from engine.store import approvals, claims, control
from engine.store.control import ControlRow
from telemetry.reads.executions import get_execution


async def answer(
    connection: AsyncConnection, execution_id: str, owner: str, given: ResumeBody, answered_by: str
) -> None:
    """Store the answer and let the execution continue, both or neither.

    Raises `NotFound`, `NotPaused`, `AlreadyAnswered` or `InvalidAnswer`; the caller rolls the transaction back then.
    """
    row = await control.get(connection, execution_id, owner)
    if row is None:
        if await get_execution(connection, execution_id, owner) is None:
            raise NotFound.of("execution", execution_id)
        raise NotPaused
    found = await approvals.find(connection, execution_id, given.approval_id)
    if found is not None and found[1]:
        raise AlreadyAnswered
    if row.status is not Status.PAUSED:
        raise NotPaused
    if found is None:
        raise NotFound.of("approval", given.approval_id)
    if (problem := answer_problem(found[0], given.choice, given.data)) is not None:
        raise InvalidAnswer(problem)
    if not await approvals.answer(
        connection, GivenAnswer(given.approval_id, given.choice, given.data, answered_by=answered_by)
    ):
        raise AlreadyAnswered
    if not await claims.make_answered(connection, execution_id):
        raise NotPaused


async def open_questions(connection: AsyncConnection, row: ControlRow | None) -> list[Approval]:
    """The unanswered questions of a paused execution; none in any other status."""
    if row is None or row.status is not Status.PAUSED:
        return []
    return await approvals.list_open(connection, row.execution_id)

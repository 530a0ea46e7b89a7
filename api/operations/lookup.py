"""Helpers of routes that are about one execution: its document, and its id on responses and problems."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.access.principal import Principal
from api.http.problems import Problem, problem_of
from api.operations.approve import open_questions
from api.schemas import executions as documents
from api.wiring.runtime import Runtime
from engine.errors import NotFound, SpanloomError
from engine.retention import erasure
from engine.store import control
from telemetry.reads import executions


@asynccontextmanager
async def about(execution_id: str) -> AsyncIterator[None]:
    """Turns errors in the block into problems that carry the id of the execution."""
    try:
        yield
    except SpanloomError as error:
        raise problem_of(error, execution_id) from error
    except Problem as problem:
        problem.execution_id = execution_id
        raise


async def read_execution(runtime: Runtime, execution_id: str, principal: Principal) -> documents.Execution:
    """The execution as this principal may see it. Raises `NotFound`."""
    found = await read_whole(runtime, execution_id, principal.owner)
    if principal.may("content:read"):
        return found
    return documents.without_content(found, with_questions=principal.may("executions:approve"))


async def read_whole(runtime: Runtime, execution_id: str, owner: str) -> documents.Execution:
    """The execution with its content, from its record and its control row. Raises `NotFound`."""
    async with runtime.database.read() as connection:
        record = await executions.get_execution(connection, execution_id, owner)
        if record is None:
            raise NotFound.of("execution", execution_id)
        row = await control.get(connection, execution_id, owner)
        gone = await erasure.why_gone(connection, execution_id)
        return documents.execution(record, row, await open_questions(connection, row), runtime.settings, gone)


def headers_of(execution_id: str, **more: str) -> dict[str, str]:
    """Response headers with the id of the execution."""
    return {"X-Execution-ID": execution_id, **more}

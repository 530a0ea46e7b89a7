"""Reads the original request of a finished execution, to run it again."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import InputGone, NotFinished, NotFound
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.ledger import SpanIds
from engine.store import control
from telemetry.reads.executions import get_execution


@dataclass(frozen=True, slots=True)
class OriginalRequest:
    """The request as it was accepted; `graph` is null if it had no valid graph."""

    identity: ExecutionIdentity
    request: JsonObject
    graph: bytes | None
    first_root: SpanIds | None


async def read_original(connection: AsyncConnection, execution_id: str, owner: str) -> OriginalRequest:
    """The original request of a finished execution. Raises `NotFound`, `NotFinished` or `InputGone`."""
    row = await control.get(connection, execution_id, owner)
    if row is None:
        if await get_execution(connection, execution_id, owner) is None:
            raise NotFound.of("execution", execution_id)
        raise InputGone
    if not row.status.is_terminal:
        raise NotFinished
    if not row.has_request:
        raise InputGone
    graph = None
    if row.graph_hash is not None:
        graph = await control.get_graph(connection, row.graph_hash)
        if graph is None:
            raise InputGone
    return OriginalRequest(row.identity, row.request, graph, row.first_root)

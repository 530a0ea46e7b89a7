"""`Client` and `AsyncClient`: the service from Python."""

from collections.abc import AsyncGenerator, Generator, Mapping
from types import TracebackType
from typing import Self
from uuid import uuid4

import httpx2

from api.client.calls import Call
from api.client.connection import DEFAULT_SERVER, AsyncConnection, Connection, Server
from api.client.operations.executions import start_call
from api.client.operations.groups import AsyncGroups, Groups
from api.client.streams import events_call, follow, follow_async
from api.schemas.executions import Execution
from engine.events import ExecutionEvent
from engine.graph import JsonObject
from engine.request import ExecutionRequest, TemplateSource
from engine.result import ExecutionResult

_WAIT_SECONDS = 300


class Client(Groups):
    """A spanloom service from Python.

        with Client("https://spanloom.example", api_key=key) as client:
            result = client.run("universal_chat", {"message": "hi"})

    Its groups of methods are the API's: `client.executions.list(status=["failed"])`. After a lost connection a request
    is repeated if it starts nothing twice; a start can be repeated, as each one gets an Idempotency-Key. Raises
    `ServerProblem` for a refusal, `Unreachable` without a connection.
    """

    def __init__(
        self, server: str = DEFAULT_SERVER, *, api_key: str | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._connection = Connection(Server(server, api_key), transport)
        super().__init__(self._connection)

    def run(
        self, template: str, input: JsonObject | None = None, *, params: JsonObject | None = None, **tags: str
    ) -> ExecutionResult:
        """Run a template and wait for its end, however long it takes. The keywords are the execution's tags."""
        return self.execute(_request(template, input, params, tags))

    def execute(self, request: ExecutionRequest, *, idempotency_key: str | None = None) -> ExecutionResult:
        """Start an execution and wait for its end or pause."""
        key = idempotency_key or str(uuid4())
        while True:
            answer = self._connection.send(_waiting(request, key))
            if isinstance(answer, ExecutionResult):
                return answer

    def stream(
        self, request: ExecutionRequest, *, idempotency_key: str | None = None
    ) -> Generator[ExecutionEvent, None, None]:
        """Start an execution and yield its events; the data of the last one is the result."""
        return follow(self._connection, _streaming(request, idempotency_key))

    def events(self, execution_id: str, *, after: str | None = None) -> Generator[ExecutionEvent, None, None]:
        """The events of an execution, after `<attempt>-<seq>` if that is given, up to its end or pause."""
        return follow(self._connection, events_call(execution_id, after))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncGroups):
    """As `Client`, for asyncio."""

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = AsyncConnection(Server(server, api_key), transport)
        super().__init__(self._connection)

    async def run(
        self, template: str, input: JsonObject | None = None, *, params: JsonObject | None = None, **tags: str
    ) -> ExecutionResult:
        """Run a template and wait for its end, however long it takes. The keywords are the execution's tags."""
        return await self.execute(_request(template, input, params, tags))

    async def execute(self, request: ExecutionRequest, *, idempotency_key: str | None = None) -> ExecutionResult:
        """Start an execution and wait for its end or pause."""
        key = idempotency_key or str(uuid4())
        while True:
            answer = await self._connection.send(_waiting(request, key))
            if isinstance(answer, ExecutionResult):
                return answer

    def stream(
        self, request: ExecutionRequest, *, idempotency_key: str | None = None
    ) -> AsyncGenerator[ExecutionEvent, None]:
        """Start an execution and yield its events; the data of the last one is the result."""
        return follow_async(self._connection, _streaming(request, idempotency_key))

    def events(self, execution_id: str, *, after: str | None = None) -> AsyncGenerator[ExecutionEvent, None]:
        """The events of an execution, after `<attempt>-<seq>` if that is given, up to its end or pause."""
        return follow_async(self._connection, events_call(execution_id, after))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _request(
    template: str, input: JsonObject | None, params: JsonObject | None, tags: Mapping[str, str]
) -> ExecutionRequest:
    source = TemplateSource(kind="template", template=template, params=params or {})
    return ExecutionRequest(source=source, input=input or {}, tags=dict(tags))


def _waiting(request: ExecutionRequest, key: str) -> Call[ExecutionResult | Execution]:
    """The same key each time: after the first one the service joins the execution."""
    return start_call(_in_mode(request, "wait"), wait_seconds=_WAIT_SECONDS, idempotency_key=key)


def _streaming(request: ExecutionRequest, key: str | None) -> Call[ExecutionResult | Execution]:
    return start_call(_in_mode(request, "stream"), idempotency_key=key)


def _in_mode(request: ExecutionRequest, mode: str) -> ExecutionRequest:
    return request.model_copy(update={"mode": mode})

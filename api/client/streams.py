"""Follows the events of an execution over lost connections: each event once, in order, up to the closing one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx2
from pydantic import TypeAdapter

from api.client.calls import Call, problem_of_document, segment
from api.client.connection import AsyncConnection, Connection, unreachable
from api.client.errors import ServerProblem
from api.schemas.problems import ProblemDocument
from engine.events import EventType, ExecutionEvent
from engine.graph import JsonObject

_ATTEMPTS = 8
"""Connections in a row that bring nothing new."""
_MAX_PAUSE = 5.0
_STREAM_ERROR = "stream_error"
_GOES_ON = frozenset({"draining", "unavailable"})
"""Problems of a process, not of the execution: another process continues it."""
_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_OPENED = {200: None, 204: None}


def events_call(execution_id: str, after: str | None = None) -> Call[None]:
    """The call that follows an execution from the event `<attempt>-<seq>` on."""
    return Call("GET", f"/v1/executions/{segment(execution_id)}/events", _OPENED, headers={"Last-Event-ID": after})


def follow(connection: Connection, call: Call[Any]) -> Generator[ExecutionEvent, None, None]:
    """The events of a call that answers with a stream. Raises `ServerProblem` or `Unreachable`."""
    reader = _Reader(call)
    while not reader.is_done:
        try:
            with connection.stream(reader.call) as answer:
                reader.open(answer)
                for frame in httpx2.EventSource(answer):
                    if (event := reader.read(frame)) is not None:
                        yield event
        except (httpx2.HTTPError, ServerProblem) as error:
            reader.check(error)
        time.sleep(reader.pause())


async def follow_async(connection: AsyncConnection, call: Call[Any]) -> AsyncGenerator[ExecutionEvent, None]:
    """As `follow`."""
    reader = _Reader(call)
    while not reader.is_done:
        try:
            async with connection.stream(reader.call) as answer:
                reader.open(answer)
                async with aclosing(aiter(httpx2.EventSource(answer))) as frames:  # type: ignore[type-var]
                    async for frame in frames:
                        if (event := reader.read(frame)) is not None:
                            yield event
        except (httpx2.HTTPError, ServerProblem) as error:
            reader.check(error)
        await asyncio.sleep(reader.pause())


@dataclass(slots=True)
class _Reader:
    """What a reader of a stream knows: the next call, and how often in a row it got nothing."""

    call: Call[Any]
    is_done: bool = False
    failures: int = 0
    execution_id: str | None = None
    retry_after: float | None = None

    def open(self, answer: httpx2.Response) -> None:
        """The answer has begun; from now on a lost connection is taken up where it was."""
        self.is_done = answer.status_code == 204
        self.execution_id = answer.headers.get("x-execution-id", self.execution_id)
        if self.execution_id is not None and self.call.method != "GET":
            self.call = events_call(self.execution_id)

    def read(self, frame: httpx2.ServerSentEvent) -> ExecutionEvent | None:
        """The event of a frame; null if it is none. Raises `ServerProblem` for a stream that broke."""
        if frame.event == _STREAM_ERROR:
            raise problem_of_document(ProblemDocument.model_validate_json(frame.data, extra="ignore"))
        if frame.event not in list(EventType):
            return None
        event = _event(_JSON.validate_json(frame.data))
        self.is_done, self.failures = event.type.is_closing, 0
        self.call = replace(self.call, headers={"Last-Event-ID": frame.id})
        return event

    def check(self, error: httpx2.HTTPError | ServerProblem) -> None:
        """Raise the error unless another connection may bring more."""
        has_begun = self.execution_id is not None
        can_go_on = isinstance(error, httpx2.HTTPError) or error.code in _GOES_ON
        wanted = (has_begun and can_go_on) or bool(self.call.pause_before_repeating(error))
        if not wanted or self.failures >= _ATTEMPTS:
            raise unreachable(error) if isinstance(error, httpx2.HTTPError) else error
        self.retry_after = error.retry_after_seconds if isinstance(error, ServerProblem) else None

    def pause(self) -> float:
        """Seconds until the next connection."""
        if self.is_done:
            return 0.0
        self.failures += 1
        if self.failures > _ATTEMPTS:
            raise unreachable(EOFError("the stream ended early again and again"))
        return self.retry_after or min(_MAX_PAUSE, 0.1 * 2**self.failures)


def _event(document: JsonObject) -> ExecutionEvent:
    """The event of a document; fields of a newer service are left out."""
    at = datetime.fromisoformat(str(document.pop("at"))).timestamp()
    known = {name: value for name, value in document.items() if name in ExecutionEvent.__slots__}
    known["type"] = EventType(str(known["type"]))
    return ExecutionEvent(at=at, **known)  # type: ignore[arg-type]

"""The last resort answers for an application that did not, and never in the middle of a response."""

import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.http.unanswered import UnansweredRequests

SCOPE = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/x", "headers": [], "state": {}}
START = {"type": "http.response.start", "status": 200, "headers": []}


async def sent_by(messages: list[Message]) -> list[Message]:
    """What a client gets of an application that sends these messages and then fails."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise RuntimeError("sk-canary-1234")

    async def receive() -> Message:
        raise AssertionError("nobody reads the request")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await UnansweredRequests(application)(dict(SCOPE), receive, send)
    except RuntimeError:
        sent.append({"type": "raised"})
    return sent


async def test_a_failure_before_the_response_is_answered() -> None:
    start, body = await sent_by([])
    assert (start["status"], json.loads(body["body"])["code"]) == (500, "internal_error")
    assert b"canary" not in body["body"]


async def test_a_failure_within_the_response_is_left_to_the_server() -> None:
    assert await sent_by([START]) == [START, {"type": "raised"}]


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: a=b", b"\0"])
async def test_a_header_that_the_server_would_choke_on_is_no_beginning(value: bytes) -> None:
    start, body = await sent_by([{**START, "headers": [(b"x-execution-id", value)]}])
    assert (start["status"], json.loads(body["body"])["code"]) == (500, "internal_error")

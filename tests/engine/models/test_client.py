"""The client of providers: how much it takes, what it gives on, and where it does not go."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import httpx2
import pytest

from engine.models.client import MAX_LINES, MAX_MARKS, ModelClient
from engine.models.counts import IMPOSSIBLE
from engine.models.provider_errors import AnswerRefused
from engine.models.reports import openai_usage
from engine.resources import AnswerLimits

LIMITS = AnswerLimits(max_bytes=100_000)
EVENTS = "text/event-stream"
URL = "http://provider.example/"


class Pieces(httpx2.AsyncByteStream):
    """A body that arrives in these pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def received(*pieces: bytes, content_type: str = "application/json", stream: bool = False) -> bytes:
    """What an SDK gets of an answer in these pieces."""

    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, stream=Pieces(iter(pieces)))

    async with client_of(answer) as client:
        if not stream:
            return (await client.post(URL)).content
        async with client.stream("POST", URL) as response:
            return await response.aread()


def client_of(answer: Callable[[httpx2.Request], Coroutine[None, None, httpx2.Response]]) -> ModelClient:
    """A client without a network."""
    client = ModelClient(LIMITS, openai_usage)
    client._transport = httpx2.MockTransport(answer)
    return client


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
async def test_events_arrive_as_they_were_sent_however_they_are_cut(size: int, end: str) -> None:
    sent = "".join(f'data: {{"number": {number}}}{end}' for number in range(50)).encode() + b"data: [DONE]"
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert await received(*pieces, content_type=EVENTS, stream=True) == sent


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("content_type", [EVENTS, "application/json"])
async def test_a_document_or_event_of_four_answers_is_too_large(stream: bool, content_type: str) -> None:
    assert len(await received(*[b"a" * 1_000] * 400, content_type=content_type, stream=stream)) == 400_000
    with pytest.raises(AnswerRefused, match="larger than 400,000 bytes"):
        await received(*[b"a" * 1_000] * 401, content_type=content_type, stream=stream)


async def test_a_stream_of_256_answers_is_too_large() -> None:
    event = b"data: 1\n\n".rjust(16_000, b" ")
    assert len(await received(*[event] * 1_600, content_type=EVENTS, stream=True)) == 25_600_000
    with pytest.raises(AnswerRefused, match="larger than 25,600,000 bytes"):
        await received(*[event] * 1_601, content_type=EVENTS, stream=True)


@pytest.mark.parametrize("content_type", [EVENTS, "application/json"])
async def test_values_are_counted_outside_of_text_only(content_type: str) -> None:
    text = b'{"x": "' + b'[{,\\"' * 19_000 + b'"}'
    assert await received(text, content_type=content_type) == text
    with pytest.raises(AnswerRefused, match="values and strings"):
        await received(b"[" + b"1," * MAX_MARKS + b"1]", content_type=content_type)


async def test_an_event_has_few_lines_and_a_stream_any_number() -> None:
    stream = b": still here\n\n" * (2 * MAX_LINES)
    assert await received(stream, content_type=EVENTS) == stream
    with pytest.raises(AnswerRefused, match="lines"):
        await received(b"data: 1\n" * (MAX_LINES + 1) + b"\n", content_type=EVENTS)


async def test_false_counts_are_replaced_in_every_event_that_has_them() -> None:
    true = b'data: {"usage": {"input_tokens": 1}}\n\n'
    sent = b'event: x\ndata: {"usage":\ndata: {"input_tokens": -1}}\n\n' + true
    expected = f'event: x\ndata: {{"usage":{{"input_tokens":{IMPOSSIBLE}}}}}\n\n'.encode() + true
    assert await received(sent, content_type=EVENTS) == expected


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_whatever_the_sdk_asks_for(status: int) -> None:
    asked: list[str] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(status, headers={"location": "http://elsewhere.example/"})

    async with client_of(answer) as client:
        with pytest.raises(AnswerRefused, match="redirects elsewhere"):
            await client.post(URL, headers={"x-api-key": "secret"}, follow_redirects=True)
    assert asked == [URL]


async def test_a_lone_carriage_return_is_a_line_break_too() -> None:
    with pytest.raises(AnswerRefused, match="lines"):
        await received(b"data: " + b"a\r" * (MAX_LINES + 1) + b"\n\n", content_type=EVENTS, stream=True)


async def test_an_event_of_few_letters_may_be_large() -> None:
    chunk = b'data: {"choices": [{"delta": {"content": "word"}}], "x": "' + b"x" * 270 + b'"}\n\n'
    sent = chunk * (LIMITS.max_bytes // 4)
    pieces = [sent[start : start + 65_536] for start in range(0, len(sent), 65_536)]
    assert len(await received(*pieces, content_type="Text/Event-Stream; charset=utf-8", stream=True)) == len(sent)

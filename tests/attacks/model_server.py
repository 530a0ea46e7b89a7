"""A server that speaks OpenAI's protocol and answers with what a test tells it, piece by piece."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from engine.graph import JsonObject

Pieces = Sequence[str | JsonObject]
"""The pieces of one answer: texts, or deltas as the protocol has them."""


@contextmanager
def provider(*answers: Pieces, status: int = 200, pause_seconds: float = 0.0) -> Iterator[str]:
    """A server that streams the answers, one per request, the last one again and again; its address.

    With another status it refuses each request with the pieces as its message. `pause_seconds` is between two pieces.
    """
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            pieces = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.end_headers()
            with suppress(OSError):  # the client has left
                for part in _events(pieces) if status == 200 else [_refusal(pieces)]:
                    self.wfile.write(part)
                    time.sleep(pause_seconds)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def tool_call(name: str, arguments: JsonObject) -> JsonObject:
    """A piece that calls a tool."""
    function: JsonObject = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]}


def _events(pieces: Pieces) -> Iterator[bytes]:
    calls_tools = False
    for piece in pieces:
        delta: JsonObject = {"role": "assistant", "content": piece} if isinstance(piece, str) else piece
        calls_tools = calls_tools or "tool_calls" in delta
        yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    reason = "tool_calls" if calls_tools else "stop"
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    yield b"data: [DONE]\n\n"


def _event(fields: JsonObject) -> bytes:
    common: JsonObject = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps({**common, **fields})}\n\n".encode()


def _refusal(pieces: Pieces) -> bytes:
    message = "".join(map(str, pieces))
    return json.dumps({"error": {"message": message, "type": "bad", "code": "bad"}}).encode()

"""Runs the HTTP application until a signal: then it is not ready, lets executions end, and stops."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from api.app import create_app
from api.bootstrap import Runtime, open_runtime
from api.keeper import keeping
from api.settings import Settings, check_bind
from engine.errors import SpanloomError

GRACE_SECONDS = 3
"""How long answers may take to be read once all executions have ended."""

_BACKLOG = 2_048

log = logging.getLogger(__name__)


class CannotListen(SpanloomError):
    """The address cannot be listened on."""

    code = "cannot_listen"


async def serve(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """The service from start to stop; `on_ready` is told its URL. Raises a `SpanloomError` that says what to do."""
    check_bind(settings)
    listener = listen(*settings.address)
    with listener:
        async with open_runtime(settings) as runtime, keeping(runtime):
            await serve_runtime(runtime, listener, on_ready)


async def serve_runtime(
    runtime: Runtime, listener: socket.socket, on_ready: Callable[[str], None] | None = None
) -> None:
    """Answer requests at `listener` over what already runs, until SIGTERM or SIGINT."""
    await make_server(runtime, listener, on_ready).serve([listener])


def make_server(
    runtime: Runtime, listener: socket.socket, on_ready: Callable[[str], None] | None = None
) -> uvicorn.Server:
    """The server, not yet started; setting its `should_exit` is what a signal does."""
    config = uvicorn.Config(
        create_app(runtime),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config, runtime, listener, on_ready)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises `CannotListen`.

    The protocol is named, as asyncio turns Nagle's algorithm off only then: with it each answer takes 40 ms longer.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        return listener
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise CannotListen(
            f"cannot listen on {host}:{port} ({reason}); name another address in SPANLOOM_BIND"
        ) from error


def url_of(listener: socket.socket) -> str:
    """Where the service is reached on this machine."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, with our way of stopping."""

    def __init__(
        self,
        config: uvicorn.Config,
        runtime: Runtime,
        listener: socket.socket,
        on_ready: Callable[[str], None] | None,
    ) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._url = url_of(listener)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("ready at %s", self._url)
        if self._on_ready is not None:
            self._on_ready(self._url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The second Ctrl-C does not wait. Signals are not raised again: what lives long is still to be closed."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that we are not ready and let executions end, while answers are still given; then stop."""
        draining = asyncio.create_task(self._runtime.drain(), name="drain")
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=0.1)
        await super().shutdown(sockets)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)

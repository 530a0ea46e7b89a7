"""Runs the service in its roles until a signal; then it reports not ready, lets executions end, and stops.

Modules that only one role needs are imported where they are used, to keep the process of the role `ingest` small.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from api.service.connections import ConnectionLimits, bounded
from api.service.ingest import create_ingest_app
from api.service.memory import collect_garbage_rarely, trimming
from api.settings import Settings, check_ingest
from api.wiring.access import check_bind, check_keys
from api.wiring.ingest import Ingest, open_ingest
from api.wiring.runtime import Runtime, open_runtime
from engine.errors import SpanloomError

GRACE_SECONDS = 3
"""Seconds that clients have to read their responses after all executions have ended."""

Role = Literal["api", "worker", "keeper", "ingest"]
ROLES: tuple[Role, ...] = ("api", "worker", "keeper", "ingest")
"""The roles of a process. `api` answers the API and runs executions that are waited for or streamed. `worker` runs
executions that were queued, resumed or left by another process. `keeper` runs the maintenance jobs. `ingest` receives
signals from the Collector.
"""

_BACKLOG = 2_048

log = logging.getLogger(__name__)


class CannotListen(SpanloomError):
    """The service cannot listen on this address; name another one."""

    code = "cannot_listen"


async def serve(
    settings: Settings,
    roles: AbstractSet[Role],
    on_ready: Callable[[str], None] | None = None,
    *,
    on_signal: Callable[[], None] = lambda: None,
) -> None:
    """Run the service in some of its roles until a signal.

    `on_ready` is called with the URL of the API, `on_signal` when the service begins to stop. Raises a `SpanloomError`
    that says what to do.
    """
    async with AsyncExitStack() as stack:
        api = _listen_for_api(settings, stack) if "api" in roles else None
        collector = _listen_for_collector(settings, stack) if "ingest" in roles else None
        runtime = None
        if roles != {"ingest"}:
            runtime = await stack.enter_async_context(open_runtime(settings))
            if api is not None:
                await check_keys(settings, runtime.database)
            if (notice := runtime.demo_notice) is not None:
                log.warning(notice)
        if collector is not None:
            ingest = ingest_of(runtime) if runtime else await stack.enter_async_context(open_ingest(settings))
            await stack.enter_async_context(receiving(ingest, collector))
        collect_garbage_rarely()
        await stack.enter_async_context(trimming())
        if runtime is not None:
            await _start_background(runtime, roles, stack)
        if runtime is not None and api is not None:
            await serve_runtime(runtime, api, on_ready, on_signal)
            return
        await _signal()
        on_signal()
        if runtime is not None:
            await runtime.drain()


def _listen_for_api(settings: Settings, stack: AsyncExitStack) -> socket.socket:
    check_bind(settings)
    return stack.enter_context(listen(*settings.address))


def _listen_for_collector(settings: Settings, stack: AsyncExitStack) -> socket.socket:
    check_ingest(settings)
    return stack.enter_context(listen(*settings.ingest_address, variable="SPANLOOM_INGEST_BIND"))


async def _start_background(runtime: Runtime, roles: AbstractSet[Role], stack: AsyncExitStack) -> None:
    from api.service.background import run_keeper, run_worker

    if "keeper" in roles:
        await stack.enter_async_context(run_keeper(runtime))
    if "worker" in roles:
        await stack.enter_async_context(run_worker(runtime))


def default_roles(settings: Settings) -> frozenset[Role]:
    """All roles that the pipeline of these settings has."""
    return frozenset(ROLES if settings.pipeline == "collector" else ("api", "worker", "keeper"))


async def _signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


@asynccontextmanager
async def receiving(ingest: Ingest, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the Collector at `listener` during the block."""
    server = _IngestServer(_config(create_ingest_app(ingest), ingest.settings))
    serving = asyncio.create_task(server.serve([listener]), name="ingest")
    log.info("listening for the Collector at %s", url_of(listener))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def ingest_of(runtime: Runtime) -> Ingest:
    """The Collector's endpoint of a running service."""
    return Ingest(runtime.settings, runtime.metrics, runtime.receiver)


async def serve_runtime(
    runtime: Runtime,
    listener: socket.socket,
    on_ready: Callable[[str], None] | None = None,
    on_signal: Callable[[], None] = lambda: None,
) -> None:
    """Serve the API of a running service at `listener`, until SIGTERM or SIGINT.

    Once it has stopped, a further Ctrl-C ends the process at once, as SIGTERM does.
    """
    await make_server(runtime, listener, on_ready, on_signal).serve([listener])
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def make_server(
    runtime: Runtime,
    listener: socket.socket,
    on_ready: Callable[[str], None] | None = None,
    on_signal: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """The server, not yet started. Setting its `should_exit` has the effect of a signal."""
    from api.http.unanswered import UnansweredRequests
    from api.service.app import create_app

    return _Server(
        _config(UnansweredRequests(create_app(runtime)), runtime.settings), runtime, listener, on_ready, on_signal
    )


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    limits = ConnectionLimits(settings.header_seconds, settings.body_seconds, settings.max_connections)
    return uvicorn.Config(
        app,
        http=bounded(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def listen(host: str, port: int, *, variable: str = "SPANLOOM_BIND") -> socket.socket:
    """A listening socket; port 0 takes a free port. Raises `CannotListen`.

    The socket names its protocol because asyncio turns Nagle's algorithm off only then. With it each response takes
    40 ms longer.
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
        raise CannotListen(f"cannot listen on {host}:{port} ({reason}); name another address in {variable}") from error


def url_of(listener: socket.socket) -> str:
    """The URL of the service on this machine."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _IngestServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the caller stops it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server(uvicorn.Server):
    """uvicorn, which lets executions end before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        runtime: Runtime,
        listener: socket.socket,
        on_ready: Callable[[str], None] | None,
        on_signal: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._url = url_of(listener)
        self._on_ready = on_ready
        self._on_signal = on_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("ready at %s", self._url)
        if self._on_ready is not None:
            self._on_ready(self._url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second Ctrl-C stops without waiting. Signals are not raised again, as the runtime must still be closed."""
        self._on_signal()
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Report not ready and let executions end, while requests are still served; then stop."""
        draining = asyncio.create_task(self._runtime.drain(), name="drain")
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=0.1)
        await super().shutdown(sockets)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)

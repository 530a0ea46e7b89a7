"""Builds OpenTelemetry's providers and exporters, and shuts them down without waiting for a backend that hangs."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from api.settings import Settings

if TYPE_CHECKING:
    from telemetry.sdk.providers import Telemetry

EXPORT_SECONDS = 2.0
"""How long the last traces may take to be exported when the process stops."""

log = logging.getLogger(__name__)


def open_exporters(settings: Settings, stack: AsyncExitStack) -> "Telemetry":
    """The providers; the stack shuts them down. In the Collector mode our own signals are left to the shipper."""
    from telemetry.sdk.providers import build_telemetry

    telemetry = build_telemetry(exports_ours=settings.pipeline == "embedded")
    stack.push_async_callback(_shut_down, telemetry.shutdown)
    return telemetry


async def _shut_down(shutdown: Callable[[], None]) -> None:
    """Run the blocking shutdown in a daemon thread: neither the event loop nor the process waits longer for it."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            shutdown()
        finally:
            with suppress(RuntimeError):  # the time is over and the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="telemetry shutdown", daemon=True).start()
    try:
        async with asyncio.timeout(EXPORT_SECONDS):
            await done.wait()
    except TimeoutError:
        log.warning("the last traces were not exported within %g s", EXPORT_SECONDS)

"""Builds OpenTelemetry's providers and exporters, and waits for the exporters when the process stops."""

import asyncio
import logging
import threading
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from api.settings import Settings, SettingsInvalid
from api.wiring.shutdown import EXPORT_SECONDS, Patience

if TYPE_CHECKING:
    from telemetry.sdk.exporting import Deliveries
    from telemetry.sdk.providers import Telemetry

_LOOK_SECONDS = 0.05
_SILENT_SECONDS = 1.0
"""After this time a user is told what the command waits for."""

log = logging.getLogger(__name__)


def open_exporters(settings: Settings, stack: AsyncExitStack, patience: Patience) -> "Telemetry":
    """The providers; the stack shuts them down. In the Collector mode our own signals are left to the shipper.

    Raises `SettingsInvalid` for an `OTEL_*` variable that cannot be used.
    """
    from telemetry.sdk.providers import ExportSettingInvalid, build_telemetry

    try:
        is_embedded = settings.pipeline == "embedded"
        telemetry = build_telemetry(exports_ours=is_embedded, phoenix_project=settings.phoenix_project)
    except ExportSettingInvalid as error:
        raise SettingsInvalid(str(error)) from None
    stack.push_async_callback(_shut_down, telemetry, patience)
    return telemetry


async def _shut_down(telemetry: "Telemetry", patience: Patience) -> None:
    """Run the blocking shutdown in a daemon thread: neither the event loop nor the process waits longer for it."""
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def work() -> None:
        try:
            telemetry.shutdown()
        finally:
            with suppress(RuntimeError):  # the time is over and the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work, name="telemetry shutdown", daemon=True).start()
    began = loop.time()
    await _wait(done, telemetry.deliveries, patience)
    _report(telemetry.deliveries, patience, loop.time() - began, is_done=done.is_set())


async def _wait(done: asyncio.Event, deliveries: "Deliveries", patience: Patience) -> None:
    """Wait until all is exported, the time is over, or waiting is of no more use."""
    loop = asyncio.get_running_loop()
    began, settled = loop.time(), None
    is_told = patience.say is None
    while not done.is_set() and (waited := loop.time() - began) < patience.seconds:
        if deliveries.left == 0:
            settled = waited if settled is None else settled
        if waited >= (settled or 0.0) + EXPORT_SECONDS and (deliveries.is_failing or settled is not None):
            return
        if waited >= _SILENT_SECONDS and not is_told and deliveries.left:
            is_told = True
            patience.report(f"Waiting for {_spans(deliveries.left)} to be exported, {patience.seconds:g} s at most.")
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await done.wait()


def _report(deliveries: "Deliveries", patience: Patience, waited: float, *, is_done: bool) -> None:
    if deliveries.left:
        why = f" ({deliveries.problem})" if deliveries.problem else ""
        patience.report(
            f"{deliveries.left} of {_spans(deliveries.handed)} were not taken by the backend that OTEL_EXPORTER_OTLP_*"
            f" names within {waited:.0f} s{why}. The records in the database are complete; `spanloom trace` shows them."
        )
    elif not is_done:
        log.warning("the last log records were not exported within %g s", waited)


def _spans(count: int) -> str:
    return f"{count} span" if count == 1 else f"{count} spans"

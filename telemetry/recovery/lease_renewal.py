"""Renews the leases of this process's executions in a thread, so that a blocked event loop loses none of them.

The thread has an event loop and a database connection of its own. It reports lost leases to the journal, whose next
checkpoint is then fenced off, which stops the engine.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from engine.database.database import Database
from engine.database.failures import DATABASE_ERRORS
from engine.store.leases import renew
from telemetry.journal.journal import Journal
from telemetry.signals.records import Attempt

RENEW_SECONDS = 10.0
PAGE = 500
"""Leases renewed per transaction; commits of the same executions wait for it."""

_ANSWER_SECONDS = 5.0
"""How long the database may take before the renewal counts as failed."""
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 2.0
_STOP_SECONDS = 2.0

log = logging.getLogger(__name__)


class LeaseRenewal:
    """Renews leases inside its `async with`. `open_database` opens the database for the thread."""

    def __init__(
        self, journal: Journal, open_database: Callable[[], Database], *, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._journal = journal
        self._open_database = open_database
        self._renew_seconds = renew_seconds
        self._health = journal.health.leases
        self._failures = 0
        self._check: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._main = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stop = threading.Event()
        self._cancel: Callable[[], object] = lambda: None
        threading.Thread(target=self._run_thread, name="leases", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a thread that hangs in the database is abandoned."""
        self._stop.set()
        with suppress(RuntimeError):  # the thread has already ended
            self._cancel()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.warning("the lease renewal thread did not stop within %g s", _STOP_SECONDS)
        if self._check is not None:
            await asyncio.gather(self._check, return_exceptions=True)

    def _run_thread(self) -> None:
        """The body of the thread."""
        try:
            with suppress(asyncio.CancelledError):
                asyncio.run(self._renew_on())
        finally:
            self._call_main_loop(self._ended.set)

    async def _renew_on(self) -> None:
        """Renew until stopped, restarting after any error: without renewal this process loses all its executions."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        async with self._open_database() as database:
            while not self._stop.is_set():
                began = time.monotonic()
                [failure] = await asyncio.gather(self._renew_all(database), return_exceptions=True)
                if failure is None:
                    self._failures = 0
                    await asyncio.sleep(max(0.0, self._renew_seconds - (time.monotonic() - began)))
                else:
                    await asyncio.sleep(self._note(failure))

    async def _renew_all(self, database: Database) -> None:
        """Renew every lease once."""
        running = self._journal.running()
        missing: list[Attempt] = []
        async with asyncio.timeout(_ANSWER_SECONDS):
            for start in range(0, len(running), PAGE):
                missing += await self._renew_page(database, running[start : start + PAGE])
        self._health.renewals += 1
        self._health.renewed_at = time.monotonic()
        if missing:
            self._call_main_loop(self._check_missing, missing)

    async def _renew_page(self, database: Database, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Renew a page; returns the attempts whose lease is lost."""
        async with database.begin() as connection:
            renewed = await renew(connection, self._journal.lease, [id_ for id_, _ in attempts])
        return [attempt for attempt in attempts if attempt[0] not in renewed]

    def _note(self, failure: BaseException) -> float:
        """Log the failure; returns the seconds to wait before the next try."""
        self._failures += 1
        self._health.failed_renewals += 1
        known = isinstance(failure, DATABASE_ERRORS)
        log.warning(
            "leases could not be renewed; trying again",
            extra={"error": str(failure) or type(failure).__name__},
            exc_info=None if known else failure,
        )
        return min(_FIRST_PAUSE_SECONDS * self._failures, _LONGEST_PAUSE_SECONDS, self._renew_seconds)

    def _call_main_loop(self, what: Callable[..., object], *arguments: object) -> None:
        """Call a function in the main event loop; does nothing once that loop is closed."""
        with suppress(RuntimeError):
            self._main.call_soon_threadsafe(what, *arguments)

    def _check_missing(self, missing: list[Attempt]) -> None:
        """In the main loop: fence off the attempts that lost their lease, except those that have ended meanwhile."""
        here = set(self._journal.running())
        still = [attempt for attempt in missing if attempt in here]
        if not still or (self._check is not None and not self._check.done()):
            return
        self._health.missing += len(still)
        log.warning("executions of this process lost their lease", extra={"executions": len(still)})
        self._check = asyncio.create_task(self._journal.check(still), name="leases-check")

"""The one retry of database work that must not be lost: with growing waits, for a bounded time."""

from collections.abc import AsyncIterator

import stamina

from engine.errors import Unavailable

RETRY_SECONDS = 30.0

_TRANSIENT = (Unavailable, OSError)
"""Errors that a retry may overcome; any other error would occur again."""


def retrying(*also: type[Exception], seconds: float = RETRY_SECONDS) -> AsyncIterator[stamina.Attempt]:
    """Yield attempts while the database has trouble: each is a context for the work, entered by `with`.

    `also` are further errors that a retry may overcome. The last error is raised once the time is over.
    """
    return stamina.retry_context(
        on=(*_TRANSIENT, *also), attempts=None, timeout=seconds, wait_initial=0.1, wait_max=2.0
    )

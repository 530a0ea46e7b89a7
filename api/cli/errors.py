"""How a command fails: one sentence on stderr that says what to do, and the exit code."""

import logging
import sys
from typing import NoReturn

from engine.errors import Draining, Refusal, SpanloomError, Unavailable

DONE = 0
BAD_NEWS = 1
WRONG_USE = 2
NOT_READY = 3
REFUSED = 4
INTERRUPTED = 130

log = logging.getLogger(__name__)


class WrongUse(SpanloomError):
    """The command was given something it cannot use."""

    code = "wrong_use"


_OF_CODE = {WrongUse.code: WRONG_USE, "invalid_settings": WRONG_USE, "cannot_listen": NOT_READY}


def say(error: SpanloomError) -> int:
    """Tell the error; gives the exit code."""
    print(f"spanloom: {error.message}", file=sys.stderr)
    log.debug("the command failed", exc_info=error)
    return exit_code(error)


def say_unexpected(error: Exception) -> None:
    """Tell of an error of ours. The traceback is logged for those who ask for it."""
    print(
        f"spanloom: internal error, {type(error).__name__}: {error}; "
        "run the command with SPANLOOM_LOG_LEVEL=debug and report what it says",
        file=sys.stderr,
    )
    log.debug("the command failed", exc_info=error)


def exit_code(error: SpanloomError) -> int:
    """2 wrong use, 3 not reachable or not ready, 4 refused, 1 any other bad news."""
    if isinstance(error, Unavailable | Draining):
        return NOT_READY
    if isinstance(error, Refusal):
        return REFUSED
    return _OF_CODE.get(error.code, BAD_NEWS)


def wrong_use(message: str) -> NoReturn:
    """Raises `WrongUse`."""
    raise WrongUse(message)

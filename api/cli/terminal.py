"""Output and start of every command: the two consoles, JSON, settings, log."""

import logging
import os
import sys

import orjson
from rich.console import Console, RenderableType

from api.settings import Settings, read_settings
from engine.documents.json_text import to_json

PIPED_WIDTH = 160
"""Columns of output that is not a terminal: wide enough to cut nothing off."""


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr, in colour if it is a terminal and `NO_COLOR` is not set."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def is_merged() -> bool:
    """Whether stdout and stderr are the same terminal, file or pipe, as with `2>&1`."""
    try:
        out, err = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except OSError:  # replaced by a stream in memory
        return False
    return (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)


def show(view: RenderableType) -> None:
    """Print a view to stdout. Trailing spaces are removed if stdout is not a terminal."""
    made = console()
    if made.is_terminal:
        made.print(view)
        return
    with made.capture() as captured:
        made.print(view)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(document: object) -> None:
    """Print a document to stdout as indented JSON."""
    print(to_json(document, options=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def begin() -> Settings:
    """Read the settings and send the log to stderr. Raises `SettingsInvalid`."""
    settings = read_settings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("spanloom: %(message)s"))
    is_debug = settings.log_level == "debug"
    if not is_debug:
        handler.addFilter(_without_traceback)
    logging.basicConfig(level=logging.DEBUG if is_debug else logging.ERROR, handlers=[handler])
    return settings


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback: it is shown with `SPANLOOM_LOG_LEVEL=debug` only."""
    record.exc_info = record.exc_text = None
    return True

"""What every command writes to and begins with: the two consoles, JSON, the settings, the log."""

import logging
import sys

import orjson
from rich.console import Console, RenderableType

from api.settings import Settings, read_settings

PIPED_WIDTH = 160
"""Columns of what is no terminal: enough that nothing is cut off."""


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr: colours and width of the terminal, if it is one and `NO_COLOR` is not set."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made


def show(view: RenderableType) -> None:
    """Print a view to stdout; to what is no terminal without the spaces that fill its lines up."""
    made = console()
    if made.is_terminal:
        made.print(view)
        return
    with made.capture() as captured:
        made.print(view)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(document: object) -> None:
    """Print a document to stdout, as JSON that people can read."""
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())


def begin() -> Settings:
    """The settings; from here on the log goes to stderr. Raises `SettingsInvalid`."""
    settings = read_settings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("spanloom: %(message)s"))
    is_debug = settings.log_level == "debug"
    if not is_debug:
        handler.addFilter(_without_traceback)
    logging.basicConfig(level=logging.DEBUG if is_debug else logging.ERROR, handlers=[handler])
    return settings


def _without_traceback(record: logging.LogRecord) -> bool:
    """One sentence is enough here; the traceback is for `SPANLOOM_LOG_LEVEL=debug`."""
    record.exc_info = record.exc_text = None
    return True

"""Output and start of every command: the two consoles, JSON, settings, log.

Only this module writes past the guard of `streams`: a console whose segments are escaped one by one, since its colours
are not, and `show_json`, whose values stay exact.
"""

import os
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from api.cli.streams import exact
from api.service.logs import log_for_command
from api.settings import Settings, read_settings
from api.wiring.shutdown import COMMAND_SECONDS, Patience
from engine.security.printable import printable, printable_json

PIPED_WIDTH = 160
"""Columns of output that is not a terminal: wide enough to cut nothing off."""


class _Console(Console):
    """A console that escapes control characters in what it is given, but not in its own colours and movements."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr, in colour if it is a terminal and `NO_COLOR` is not set."""
    file = exact(sys.stderr if stderr else sys.stdout)
    made = _Console(file=file, highlight=False, markup=False, emoji=False)
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
    """Print a document to stdout as indented JSON with exact values."""
    print(printable_json(document, indented=True), file=exact(sys.stdout))


def patience() -> Patience:
    """The patience of a command with its exporters: it waits while they make progress, and tells the user on stderr."""
    return Patience(COMMAND_SECONDS, lambda sentence: console(stderr=True).print(sentence, soft_wrap=True))


def begin() -> Settings:
    """Read the settings and send the log to stderr. Raises `SettingsInvalid`."""
    settings = read_settings()
    log_for_command(settings)
    return settings

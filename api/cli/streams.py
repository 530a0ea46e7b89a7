"""Guards stdout and stderr: nothing that a command prints is obeyed by the terminal.

Commands show texts of strangers: answers of models, error messages, tags, names in files. With both streams replaced,
`print`, the log, tracebacks and libraries are covered.
"""

import io
import sys
from typing import TextIO, cast

from engine.security.printable import printable


class GuardedStream(io.TextIOBase):
    """A text stream that escapes control characters. It has no `buffer`, which would be a way around it."""

    def __init__(self, exact: TextIO) -> None:
        exact.reconfigure(errors="replace")  # type: ignore[attr-defined]  # it is one of the interpreter's text streams
        self.exact = exact

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only there too
        """The encoding of the stream."""
        return self.exact.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # read-only there too
        """What happens to characters that the encoding lacks: they become a question mark."""
        return self.exact.errors

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        self.exact.write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.exact.flush()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return self.exact.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.exact.isatty()

    def writable(self) -> bool:
        """Always."""
        return True


def guard_streams() -> None:
    """Replace stdout and stderr by streams that escape control characters."""
    sys.stdout = cast(TextIO, GuardedStream(exact(sys.stdout)))
    sys.stderr = cast(TextIO, GuardedStream(exact(sys.stderr)))


def exact(stream: TextIO) -> TextIO:
    """The stream behind the guard."""
    return stream.exact if isinstance(stream, GuardedStream) else stream

"""The guard of stdout and stderr."""

import io
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from api.cli import terminal
from api.cli.streams import GuardedStream, exact, guard_streams


@contextmanager
def guarded() -> Iterator[io.TextIOWrapper]:
    """Stdout and stderr in memory, with the guard on."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(stream), redirect_stderr(stream):
        guard_streams()
        guard_streams()  # a second guard would be the same one
        yield stream


def written(stream: io.TextIOWrapper) -> str:
    """What reached the stream."""
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


def test_print_logs_tracebacks_and_writes_are_escaped() -> None:
    with guarded() as out:
        print("\x1b[2J", "\x9b", file=sys.stderr)
        sys.stdout.writelines(["\x1b[3J"])
        logging.StreamHandler(sys.stderr).handle(logging.makeLogRecord({"msg": "\x1b[4J"}))
        try:
            raise ValueError("\x1b[5J")
        except ValueError:
            traceback.print_exc()
    assert "\x1b" not in written(out)
    assert all(rf"\x1b[{number}J" in written(out) for number in range(2, 6))


def test_the_guard_gives_no_way_around_it() -> None:
    with guarded() as out:
        stdout: object = sys.stdout
        assert isinstance(stdout, GuardedStream)
        assert not hasattr(stdout, "buffer")
        assert exact(sys.stdout) is out


def test_a_console_escapes_what_it_is_given_and_not_its_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with guarded() as out:
        terminal.console().print("\x1b[2J[bold]x", style="red")
    assert written(out) == "\x1b[31m\\x1b[2J[bold]x\x1b[0m\n"

"""Runs commands on a real pseudo-terminal, and says what of their output the terminal would have obeyed."""

import os
import pty
import re
import subprocess
import termios
import unicodedata
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from tests.api.cli.shell import SECONDS, SPANLOOM

ROWS, COLUMNS = 50, 160

MARK = "EVIL"
"""Stands in each attack behind what a terminal would obey."""

ATTACKS = (
    f"\x1b]0;{MARK}\x07",  # window title
    f"\x1b]8;;https://evil.example\x1b\\{MARK}\x1b]8;;\x1b\\",  # link
    f"\x1b]52;c;{MARK}\x07",  # clipboard
    f"\x1b[2J\x1b[H{MARK}",  # clear the screen
    f"\x1b[8m{MARK}",  # hide
    f"\x9b2J\x9d0;{MARK}\x9c",  # C1 controls; UTF-8 on the wire
    f"\x90{MARK}\x9c\x1bP{MARK}\x1b\\\x1b_{MARK}\x1b\\",  # DCS and APC
    f"\u202e{MARK}\u2066\u2069\u200e\u200f\u061c",  # bidi
    f"ok\r{MARK}",
    f"ok\r\n{MARK}",
    f"ok\n{MARK}",
    f"ok\u2028{MARK}\x85{MARK}\x0b{MARK}\x0c{MARK}",
    f"\b\b\b\x7f\0{MARK}",
    f"\u200b\ufeff\u2060\U000e0041{MARK}",  # zero width
    f"[bold]{MARK}[/bold] [link=https://evil.example]{MARK}[/link] :smile:",
)
ATTACK = " ".join(ATTACKS)

_OURS = re.compile(r"\x1b\[(?:0|[1-79]|3\d|9\d)(?:;[\d;]+)?m|\x1b\[\?25[lh]|\x1b\[\d*A|\x1b\[2K|\x1b\[0m")
"""What our own tables and progress write: colours, the cursor hidden and shown, a line up, a line erased."""


def run_on_terminal(folder: Path, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str]:
    """Run a command with all three streams on a pseudo-terminal; its exit code and what the terminal got.

    `typed` waits in the terminal's buffer until the command reads it.
    """
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (ROWS, COLUMNS))
    try:
        process = subprocess.Popen(
            [SPANLOOM, *arguments],
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
    finally:
        os.close(slave)
    os.write(master, typed.encode())
    with closing(os.fdopen(master, "rb", buffering=0)) as terminal:
        shown = b"".join(_chunks(terminal.fileno()))
        return process.wait(SECONDS), shown.decode("utf-8", "surrogateescape")


def _chunks(master: int) -> Iterable[bytes]:
    """What is written until the last process has closed the terminal, which Linux reports as an error."""
    with suppress(OSError):
        while chunk := os.read(master, 65_536):
            yield chunk


def obeyed(shown: str) -> list[str]:
    """What the terminal would obey or hide, and not our own colours; and lines that a stranger's text begins."""
    ours = _OURS.sub("", shown).replace("\r\n", "\n")
    controls = [
        f"U+{ord(character):04X}"
        for character in ours
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\n\r"
    ]
    forged = [line for line in re.split(r"[\r\n]", ours) if re.match(rf"\s{{0,4}}{MARK}", line)]
    return [*controls, *forged]

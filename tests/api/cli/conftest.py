"""Fixtures of the tests of the command line."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.api.cli.shell import SECONDS, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An empty folder with a text in it."""
    return Shell(tmp_path)


@pytest.fixture
def waiting(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    """A process whose execution waits for a provider that takes the call and never answers."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(SECONDS)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        process = shell.start("run", "universal_chat", "-m", "hi", OPENAI_BASE_URL=address, OPENAI_API_KEY="key")
        stack.callback(process.communicate)
        stack.callback(process.kill)
        connection, _ = server.accept()
        stack.enter_context(connection)
        yield process

"""SIGINT and SIGTERM at any moment: a process ends, and its log tells of no lost task or connection."""

import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from tests.api.cli.shell import SECONDS, Shell
from tests.attacks.model_server import provider
from tests.services.process import free_port

pytestmark = pytest.mark.usefixtures("books_left_open")  # the second Ctrl-C leaves an execution to its lease

LOST = ("destroyed", "never retrieved", "never awaited", "Exception ignored", "Exception closing", "internal error")
"""What asyncio, Python and SQLAlchemy say of work that nobody has ended."""
INT, TERM = signal.SIGINT, signal.SIGTERM
PRESSED = [((INT,), 0.0), ((INT, INT), 0.0), ((INT, INT, INT), 0.7), ((TERM,), 0.0), ((TERM, INT, INT), 0.7)]
"""Signals, and the seconds between them."""
ENDS = {0, 1, 130, -TERM, -INT}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder of its own."""
    return Shell(tmp_path)


@contextmanager
def started(shell: Shell, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A process whose model answers for many seconds."""
    with provider(["word "] * 1_000, pause_seconds=0.02) as address:
        process = shell.start(
            *arguments,
            OPENAI_API_KEY="sk-test",
            OPENAI_BASE_URL=address,
            SPANLOOM_DRAIN_SECONDS="1",
            SPANLOOM_LOG_FORMAT="text",
            PYTHONUNBUFFERED="1",
            **environment,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def end(process: "subprocess.Popen[str]", pressed: Sequence[signal.Signals], gap_seconds: float, *more: str) -> None:
    """Send the signals and check that the process ends without these words."""
    for number in pressed:
        process.send_signal(number)
        time.sleep(gap_seconds)
    out, err = process.communicate(timeout=SECONDS)
    assert [word for word in (*LOST, *more) if word in out + err] == [], err
    assert process.returncode in ENDS, err


@pytest.mark.parametrize("moment", [0.7, 2.0])
@pytest.mark.parametrize("command", [("run", "universal_chat", "-m", "hi"), ("serve",)], ids=["run", "serve"])
def test_a_process_that_starts_can_be_stopped_at_any_moment(
    shell: Shell, command: tuple[str, ...], moment: float
) -> None:
    with started(shell, *command, PORT="0") as process:
        time.sleep(moment)
        end(process, (INT, INT, INT), 0.2, "Traceback")


@pytest.mark.slow
@pytest.mark.parametrize(("pressed", "gap"), PRESSED)
def test_a_run_in_the_middle_of_an_answer_can_be_stopped(
    shell: Shell, pressed: tuple[signal.Signals, ...], gap: float
) -> None:
    with started(shell, "run", "universal_chat", "-m", "hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "word"
        end(process, pressed, gap, "Traceback")


@pytest.mark.parametrize("gap", [0.04, 0.1])
@pytest.mark.parametrize("first", [INT, TERM])
def test_a_service_that_closes_can_be_interrupted_again_and_again(
    shell: Shell, first: signal.Signals, gap: float
) -> None:
    with started(shell, "serve", PORT="0") as process:
        assert process.stderr is not None
        assert any("ready at" in line for line in process.stderr)
        end(process, (first, *[INT] * 30), gap, "Traceback")


@pytest.mark.slow
@pytest.mark.parametrize(("pressed", "gap"), PRESSED)
def test_a_service_with_executions_in_flight_can_be_stopped(
    shell: Shell, pressed: tuple[signal.Signals, ...], gap: float
) -> None:
    port = free_port()
    with started(shell, "serve", PORT=str(port)) as process:
        assert process.stderr is not None
        assert any("ready at" in line for line in process.stderr)
        readers = [Thread(target=_read, args=(f"http://127.0.0.1:{port}/v1/executions",)) for _ in range(3)]
        for reader in readers:
            reader.start()
        time.sleep(1.0)
        end(process, pressed, gap)
        for reader in readers:
            reader.join(SECONDS)


def _read(url: str) -> None:
    body = {"source": {"kind": "template", "template": "universal_chat"}, "input": {"message": "hi"}, "mode": "stream"}
    with (
        suppress(httpx2.HTTPError),
        httpx2.Client(trust_env=False, timeout=SECONDS) as client,
        client.stream("POST", url, json=body) as response,
    ):
        deque(response.iter_bytes(), maxlen=0)

"""SIGINT and SIGTERM at any moment: a process ends, and its log holds nothing that frightens."""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from tests.api.cli.shell import SECONDS, Shell
from tests.attacks.model_server import provider
from tests.services.process import free_port

FRIGHTENING = (
    "destroyed",
    "Traceback",
    "never retrieved",
    "never awaited",
    "Exception ignored",
    "Exception closing",
    "internal error",
)
INT, TERM = signal.SIGINT, signal.SIGTERM
PRESSED = [(INT,), (INT, INT), (INT, INT, INT), (TERM,), (TERM, INT), (TERM, INT, INT)]
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


def end(process: "subprocess.Popen[str]", pressed: Sequence[signal.Signals], gap_seconds: float) -> None:
    """Send the signals and check what the process leaves behind."""
    for number in pressed:
        process.send_signal(number)
        time.sleep(gap_seconds)
    out, err = process.communicate(timeout=SECONDS)
    assert [word for word in FRIGHTENING if word in out + err] == [], err
    assert process.returncode in ENDS, err


@pytest.mark.parametrize("moment", [0.7, 1.3, 2.5])
@pytest.mark.parametrize("command", [("run", "universal_chat", "-m", "hi"), ("serve",)], ids=["run", "serve"])
def test_a_process_that_starts_can_be_stopped_at_any_moment(
    shell: Shell, command: tuple[str, ...], moment: float
) -> None:
    with started(shell, *command, PORT="0") as process:
        time.sleep(moment)
        end(process, (INT, INT, INT), 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.5])
@pytest.mark.parametrize("pressed", PRESSED, ids=lambda pressed: "-".join(one.name for one in pressed))
def test_a_run_in_the_middle_of_an_answer_can_be_stopped(
    shell: Shell, pressed: tuple[signal.Signals, ...], gap: float
) -> None:
    with started(shell, "run", "universal_chat", "-m", "hi") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "word"
        end(process, pressed, gap)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.7])
@pytest.mark.parametrize("pressed", PRESSED, ids=lambda pressed: "-".join(one.name for one in pressed))
def test_a_service_with_executions_in_flight_can_be_stopped(
    shell: Shell, pressed: tuple[signal.Signals, ...], gap: float
) -> None:
    port = free_port()
    with started(shell, "serve", PORT=str(port)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready at" in line:
                break
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
        for _ in response.iter_bytes():
            pass

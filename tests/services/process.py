"""Starting a real program for the tests, waiting until it answers, and stopping it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SPANLOOM = (sys.executable, "-m", "spanloom")
"""The command, to which arguments are added; it starts where `spanloom` can be imported."""

_POLL_SECONDS = 0.05


class ServiceBroken(Exception):
    """A test service was started but did not become ready; the message ends with its log."""


_given_out: set[int] = set()


def free_port() -> int:
    """Return a free TCP port of the loopback address, each one only once: a service may take it later than the next."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given_out:
            _given_out.add(port)
            return port


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
    ready_seconds: float = 60,
    stop_seconds: float = 20,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends. Raises `ServiceBroken` when `ready` does not become true in time."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
    try:
        _wait(process, ready=ready, log=log, seconds=ready_seconds)
        yield process
    finally:
        _stop(process, seconds=stop_seconds)


def answers(url: str) -> bool:
    """Whether an HTTP server responds with 200 at this URL."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _wait(process: subprocess.Popen[bytes], *, ready: Callable[[], bool], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise ServiceBroken(
                f"{process.args!r} did not come up within {seconds:g} s, exit {process.poll()}:\n{tail}"
            )
        time.sleep(_POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # What it started and left behind has its session, and its session's number.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

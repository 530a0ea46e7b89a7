"""Starts programs that outlive the command, so that a later command can find and stop them."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache import tool
from tests.services.process import ServiceBroken

_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Identity:
    """One process; its start time distinguishes it from a later process with the same pid."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether the process runs. A zombie does not count as running."""
        return _look(self.pid) == self


class Processes:
    """The running processes, stored in a file of `folder`; `folder/logs` has one log per name, which is appended to."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "processes.json"
        self.logs = folder / "logs"

    def running(self) -> list[str]:
        """Return the names of started processes that still run, in start order."""
        return [name for name, identity in self._kept().items() if identity.is_alive()]

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        ready: Callable[[], bool],
        seconds: float,
    ) -> None:
        """Start a program and wait until it is ready. Raises `ServiceBroken` with the end of its log."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        pid = _spawn(command, cwd=cwd, environment={**os.environ, **environment}, log=log)
        if identity := _look(pid):
            self._keep({**self._kept(), name: identity})
        exit_code: int | None = None

        def has_ended() -> bool:
            nonlocal exit_code
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                exit_code = os.waitstatus_to_exitcode(status)
            return ended != 0

        if not wait_for(lambda: has_ended() or ready(), seconds) or exit_code is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise ServiceBroken(f"{name} did not come up, exit {exit_code}; {log} ends with:\n{tail}")

    def stop(self, *, seconds: float) -> list[str]:
        """Stop all processes, last first; kill slow ones. Returns the names of those that were still running."""
        stopped = self.running()
        for name, identity in reversed(self._kept().items()):
            if name in stopped:
                _stop(identity, seconds)
        self._keep({})
        return stopped

    def _kept(self) -> dict[str, Identity]:
        if not self._file.exists():
            return {}
        kept: dict[str, tuple[int, str]] = json.loads(self._file.read_text())
        return {name: Identity(pid, started) for name, (pid, started) in kept.items()}

    def _keep(self, identities: Mapping[str, Identity]) -> None:
        if not identities:
            self._file.unlink(missing_ok=True)
            return
        self._file.write_text(json.dumps({name: (each.pid, each.started) for name, each in identities.items()}))


def wait_for(reached: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; returns false after the timeout."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def is_taken(port: int) -> bool:
    """Whether a TCP port of the loopback address is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _spawn(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> int:
    """Start a program in a session of its own, so that it outlives ours. Returns its pid."""
    shell = tool("sh", needed_for="the stack", package="dash")
    return os.posix_spawn(
        shell,
        [shell, "-c", 'cd "$0" && exec "$@"', str(cwd), *command],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _stop(identity: Identity, seconds: float) -> None:
    """Signal the process and its children, which share its session."""
    os.killpg(identity.pid, signal.SIGTERM)
    if not wait_for(lambda: not identity.is_alive(), seconds):
        os.killpg(identity.pid, signal.SIGKILL)


def _look(pid: int) -> Identity | None:
    """Return the process that has this pid now; null if there is none."""
    ps = tool("ps", needed_for="the stack", package="procps")
    command = [ps, "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    state, _, started = line.partition(" ")
    return None if not line or state.startswith("Z") else Identity(pid, started.strip())

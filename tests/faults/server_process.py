"""A real `spanloom serve`: started, killed, frozen, thawed, asked to stop, and started again over the same database."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.house.lock import ROOT
from tests.services.process import SPANLOOM, ServiceBroken, answers, free_port

READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "NO_PROXY", "no_proxy", "COVERAGE_PROCESS_START")


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a process ended after SIGTERM."""

    exit_code: int
    seconds: float


@dataclass(slots=True)
class ServerProcess:
    """One server at an address that it keeps over all its starts. Each start has a log of its own in `folder`."""

    folder: Path
    environment: Mapping[str, str]
    """`SPANLOOM_*`, `OTEL_*` and keys of providers; nothing of the kind is passed on from outside."""
    roles: str | None = None
    faults: Sequence[str] = ()
    """Options of `tests.faults.faulty_serve`, which is started instead if there are any."""
    name: str = "server"
    port: int = field(default_factory=free_port)
    starts: int = 0
    kills: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _frozen: bool = False

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the server was started and is still running."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start, or start again, and wait until it is ready. Raises `ServiceBroken` with the end of its log."""
        self.launch()
        await self.until_ready()

    def launch(self) -> None:
        """Start without waiting."""
        assert not self.is_running, "it still runs"
        self.starts += 1
        self._frozen = False
        with self._log(self.starts).open("wb") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )

    async def until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until `/readyz` answers 200. Raises `ServiceBroken`."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(answers, f"{self.url}/readyz"):
            if not self.is_running or time.monotonic() > deadline:
                code = self._process.poll() if self._process else None
                raise ServiceBroken(f"{self.name} is not ready, exit {code}; its log ends with:\n{self.tail()}")
            await asyncio.sleep(_POLL_SECONDS)

    async def kill(self) -> None:
        """SIGKILL the server."""
        self._signal(signal.SIGKILL)
        await self._ended()
        self.kills += 1

    def freeze(self) -> None:
        """SIGSTOP: freeze the server."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT: let a frozen server continue."""
        self._signal(signal.SIGCONT)
        self._frozen = False

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting."""
        self._signal(signal.SIGTERM)

    async def stop(self, seconds: float = 60.0) -> Stopped:
        """SIGTERM, and wait for the end. Raises `ServiceBroken` if it does not come."""
        began = time.monotonic()
        self.ask_to_stop()
        try:
            code = await asyncio.to_thread(self._running().wait, seconds)
        except subprocess.TimeoutExpired:
            raise ServiceBroken(f"{self.name} does not stop; its log ends with:\n{self.tail()}") from None
        return Stopped(code, time.monotonic() - began)

    def resident_mib(self) -> float:
        """The memory that the running server really has, on Linux."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1_024
        raise AssertionError(f"{self.name} has no memory")

    def logs(self) -> str:
        """The logs of all starts."""
        return "".join(self._log(number).read_text(errors="replace") for number in range(1, self.starts + 1))

    def tail(self) -> str:
        """The end of the newest log."""
        return "\n".join(self._log(self.starts).read_text(errors="replace").splitlines()[-20:])

    async def close(self) -> None:
        """End the server in whatever state it is."""
        if not self.is_running:
            return
        if self._frozen:
            self.thaw()
        self._signal(signal.SIGKILL)
        await self._ended()

    def _command(self) -> list[str]:
        faulty = (sys.executable, "-m", "tests.faults.faulty_serve", *self.faults, "--")
        return [*(faulty if self.faults else SPANLOOM), "serve", *(["--role", self.roles] if self.roles else [])]

    def _environment(self) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        own = {"PYTHONPATH": str(ROOT), "SPANLOOM_BIND": f"127.0.0.1:{self.port}", "SPANLOOM_LOG_FORMAT": "json"}
        return {**passed_on, **own, **self.environment}

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number}.log"

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "it was never started"
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    async def _ended(self) -> int:
        return await asyncio.to_thread(self._running().wait)


@asynccontextmanager
async def server_process(
    folder: Path,
    database_url: str,
    *,
    roles: str | None = None,
    faults: Sequence[str] = (),
    name: str = "server",
    is_started: bool = True,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[ServerProcess]:
    """A server over a migrated database until the block ends."""
    settings = {"SPANLOOM_DATABASE_URL": database_url, **(environment or {})}
    made = ServerProcess(folder, settings, roles=roles, faults=faults, name=name)
    try:
        if is_started:
            await made.start()
        yield made
    finally:
        await made.close()

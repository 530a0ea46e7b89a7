"""A PostgreSQL server for the tests: the one named in the environment, or a temporary cluster."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from tests.services.cache import ServiceMissing
from tests.services.process import free_port, running

OLDEST_MAJOR = 15
_ROLE = "spanloom"
_DEBIAN = Path("/usr/lib/postgresql")
_UNSAFE_BUT_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server and the right to create databases on it."""

    admin_url: str
    """`postgresql://`, a database that is not the test's own."""

    def url_of(self, database: str) -> str:
        """The URL of a database on this server."""
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))

    def create_database(self, *, template: str = "template0") -> str:
        """Create a database, empty or as a copy of `template` (to which nobody may be connected). Returns its URL."""
        name = f"spanloom_test_{uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database and the connections that are still open to it."""
        self._execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        psql = shutil.which("psql") or str(_binaries() / "psql")
        command = [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={statement}", self.admin_url]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


def fetch() -> Path:
    """Find the newest installed server. Nothing is fetched: that is the package manager's business."""
    return _binaries()


@dataclass(slots=True)
class Cluster:
    """A temporary cluster on a port that it keeps; it can be stopped hard or gently, and started again."""

    binaries: Path
    folder: Path
    user: pwd.struct_passwd | None
    data: Path
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    starts: int = 0
    _running: ExitStack = field(default_factory=ExitStack)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def server(self) -> PostgresServer:
        """The server, with permission to create databases."""
        return PostgresServer(f"postgresql://{_ROLE}@127.0.0.1:{self.port}/postgres")

    def start(self) -> None:
        """Start, or start again over the same data, and wait until it takes connections."""
        self.starts += 1
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            **self.settings,
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        check = [str(self.binaries / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        self._process = self._running.enter_context(
            running(
                [str(self.binaries / "postgres"), "-D", str(self.data), *options],
                log=self.folder / f"log-{self.starts}",
                ready=lambda: subprocess.run(check, check=False).returncode == 0,
                environment={"PATH": os.defpath, "LC_ALL": "C"},
                user=self.user and self.user.pw_uid,
                group=self.user and self.user.pw_gid,
            )
        )

    def crash(self) -> None:
        """Stop as `pg_ctl stop -m immediate` does: connections are cut, nothing is flushed, the start recovers."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Stop as `pg_ctl stop -m fast` does: transactions are rolled back."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
        self._running.close()
        self._process = None


@contextmanager
def cluster(*, durable: bool = True) -> Iterator[Cluster]:
    """A cluster of the caller's own until the block ends; not the one that the environment names.

    It does not wait for the disk unless `durable`. Raises `ServiceMissing` where there is none.
    """
    binaries = _binaries()
    with tempfile.TemporaryDirectory(prefix="spanloom-postgres-", ignore_cleanup_errors=True) as folder:
        user = _unprivileged(Path(folder))
        data = _initialise(binaries, Path(folder), user)
        made = Cluster(binaries, Path(folder), user, data, {} if durable else _UNSAFE_BUT_FAST)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@contextmanager
def serve(*, durable: bool = False) -> Iterator[PostgresServer]:
    """The server of SPANLOOM_TEST_DATABASE_URL, else a new cluster on a free port until the block ends.

    A cluster does not wait for the disk unless `durable`. Raises `ServiceMissing` where there is none.
    """
    given = os.environ.get("SPANLOOM_TEST_DATABASE_URL")
    if given:
        yield PostgresServer(given)
        return
    with cluster(durable=durable) as made:
        yield made.server


def _binaries() -> Path:
    found = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    usable = [folder for folder in found if (folder / "postgres").exists() and _major(folder) >= OLDEST_MAJOR]
    if not usable:
        raise ServiceMissing(f"PostgreSQL {OLDEST_MAJOR} or newer is not installed: apt-get install postgresql")
    return max(usable, key=_major)


def _major(folder: Path) -> int:
    version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)", version)
    return int(match[1]) if match else 0


def _unprivileged(folder: Path) -> pwd.struct_passwd | None:
    """Return `nobody` for root, which PostgreSQL refuses to run as; null means the current user."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return nobody


def _initialise(binaries: Path, folder: Path, user: pwd.struct_passwd | None) -> Path:
    data = folder / "data"
    options = ["--auth=trust", f"--username={_ROLE}", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run(
        [binaries / "initdb", "-D", data, *options],
        check=True,
        capture_output=True,
        cwd=folder,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=None if user is None else [],
    )
    return data

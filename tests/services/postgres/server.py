"""A PostgreSQL server for the tests: one that is named by the environment, or a temporary cluster of our own."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@contextmanager
def serve(*, durable: bool = False) -> Iterator[PostgresServer]:
    """The server of SPANLOOM_TEST_DATABASE_URL, else a new cluster on a free port until the block ends.

    A cluster does not wait for the disk unless `durable`. Raises `ServiceMissing` where there is none.
    """
    given = os.environ.get("SPANLOOM_TEST_DATABASE_URL")
    if given:
        yield PostgresServer(given)
        return
    binaries = _binaries()
    with tempfile.TemporaryDirectory(prefix="spanloom-postgres-", ignore_cleanup_errors=True) as folder:
        user = _unprivileged(Path(folder))
        data = _initialise(binaries, Path(folder), user)
        port = free_port()
        settings = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "max_connections": "200",
            **({} if durable else _UNSAFE_BUT_FAST),
        }
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        check = [str(binaries / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
        with running(
            [str(binaries / "postgres"), "-D", str(data), *options],
            log=Path(folder) / "log",
            ready=lambda: subprocess.run(check, check=False).returncode == 0,
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            user=user and user.pw_uid,
            group=user and user.pw_gid,
        ):
            yield PostgresServer(f"postgresql://{_ROLE}@127.0.0.1:{port}/postgres")


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
    """Who runs the server: we, or `nobody` when we are root, which PostgreSQL refuses."""
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

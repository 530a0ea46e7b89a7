"""The cache of downloaded and built test services: outside the repository, one folder per name and content."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class ServiceMissing(Exception):
    """A test service is missing on this machine; the message says how to install it."""


def cached_folder(name: str, version: str, manifest: Iterable[Path]) -> Path:
    """The folder of one service in the cache; another version or manifest is another folder."""
    digest = hashlib.sha256(version.encode())
    for file in manifest:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "spanloom" / name / digest.hexdigest()[:16]


@contextmanager
def filling(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block succeeds, so that `target` is never incomplete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        if not target.exists():
            scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def tool(name: str, *, needed_for: str, package: str) -> str:
    """The path of a program on this machine. Raises `ServiceMissing` naming the Debian package that has it."""
    path = shutil.which(name)
    if path is None:
        raise ServiceMissing(f"{needed_for} needs {name}: apt-get install {package}")
    return path


def run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run one step of a build. Raises `ServiceMissing` with the end of its output when it fails."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ServiceMissing(f"{' '.join(command)} failed with exit code {done.returncode}:\n{tail}")


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"services: {text}", file=sys.stderr, flush=True)

"""`./dev lock`: compile requirements.lock from pyproject.toml; `--check` says whether it was.

The last line of the lock is a digest of all that it was compiled from, so that checking it needs no network.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
_PYPROJECT = ROOT / "pyproject.toml"
_STAMP = "# compiled from: "
_COMMAND = ["uv", "pip", "compile", "--quiet", "--universal", "--all-extras", "--generate-hashes"]
_WITHOUT_HOSTS = ["--no-emit-index-url", "--no-header"]


def main(arguments: list[str]) -> int:
    """Write or check the lock. Returns the exit code: 0, 1 when the lock is out of date."""
    parser = argparse.ArgumentParser(prog="./dev lock", description=__doc__)
    parser.add_argument("date", nargs="?", help="take the newest releases up to this day, YYYY-MM-DD")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when the lock is out of date")
    options = parser.parse_args(arguments)
    if options.check:
        return _check()
    if options.date:
        _move_date(options.date)
    _compile(upgrade=options.date is not None)
    return 0


def inputs_digest() -> str:
    """A digest of everything in pyproject.toml that the lock depends on."""
    document = tomllib.loads(_PYPROJECT.read_text())
    project = document["project"]
    inputs = {
        "dependencies": project["dependencies"],
        "extras": project["optional-dependencies"],
        "groups": document["dependency-groups"],
        "python": project["requires-python"],
        "until": document["tool"]["spanloom"]["lock"]["exclude-newer"],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def locked_digest() -> str | None:
    """The digest that the lock was compiled from."""
    last = LOCK.read_text().splitlines()[-1]
    return last.removeprefix(_STAMP) if last.startswith(_STAMP) else None


def _check() -> int:
    if locked_digest() == inputs_digest():
        return 0
    print("requirements.lock was compiled from another pyproject.toml: run ./dev lock", file=sys.stderr)
    return 1


def _compile(*, upgrade: bool) -> None:
    document = tomllib.loads(_PYPROJECT.read_text())
    groups = [f"--group={name}" for name in document["dependency-groups"]]
    until = f"--exclude-newer={document['tool']['spanloom']['lock']['exclude-newer']}"
    newest = ["--upgrade"] if upgrade else []
    # The commands of the environment first: the uv that the lock itself names.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [*_COMMAND, *_WITHOUT_HOSTS, *groups, until, *newest, _PYPROJECT.name, f"--output-file={LOCK.name}"]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PATH": path})
    with LOCK.open("a") as lock:
        lock.write(f"{_STAMP}{inputs_digest()}\n")


def _move_date(date: str) -> None:
    text = _PYPROJECT.read_text()
    moved, count = re.subn(r'^exclude-newer = ".*"$', f'exclude-newer = "{date}"', text, flags=re.MULTILINE)
    if count != 1:
        sys.exit("pyproject.toml has no exclude-newer in [tool.spanloom.lock]")
    _PYPROJECT.write_text(moved)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

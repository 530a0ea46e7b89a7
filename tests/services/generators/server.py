"""Two generators of clients, each in an environment of its own: openapi-typescript and openapi-python-client."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool

VERSION = "7.13.0, 0.29.1"
_HERE = Path(__file__).parent
_MANIFEST = [_HERE / name for name in (".npmrc", "package.json", "package-lock.json", "requirements.txt")]


def fetch() -> Path:
    """Fetch both into the cache (20 seconds), without install scripts. Returns their folder."""
    target = _folder()
    if target.exists():
        return target
    npm = tool("npm", needed_for="generators", package="nodejs npm")
    say(f"fetching generators of clients {VERSION}")
    with filling(target) as folder:
        for file in _MANIFEST:
            (folder / file.name).write_bytes(file.read_bytes())
        run([npm, "ci"], cwd=folder)
        # Not an environment: its scripts would name the scratch folder.
        packages = ["--no-deps", "--target", "python", "--requirement", "requirements.txt"]
        run([sys.executable, "-m", "pip", "install", "--quiet", *packages], cwd=folder)
    return target


@dataclass(frozen=True, slots=True)
class Generators:
    """The generators in the cache."""

    folder: Path

    def typescript_types(self, document: Path, target: Path) -> str:
        """Generate `api.d.ts` and compile it strictly; its text."""
        node, packages = tool("node", needed_for="generators", package="nodejs npm"), self.folder / "node_modules"
        types = target / "api.d.ts"
        _succeed([node, str(packages / "openapi-typescript" / "bin" / "cli.js"), str(document), "-o", str(types)])
        _succeed([node, str(packages / "typescript" / "bin" / "tsc"), "--noEmit", "--strict", str(types)])
        return types.read_text()

    def python_client(self, document: Path, target: Path) -> str:
        """Generate a Python client and check its types strictly; what the generator said."""
        client = str(target / "client")
        said = self._python("openapi_python_client", "generate", "--path", str(document), "--output-path", client)
        self._python("mypy", "--strict", "--config-file", "", "--cache-dir", str(target / "mypy"), client)
        return said

    def _python(self, module: str, *arguments: str) -> str:
        return _succeed([sys.executable, "-m", module, *arguments], PYTHONPATH=str(self.folder / "python"))


def find() -> Generators:
    """The generators. Raises `ServiceMissing`."""
    folder = _folder()
    if not folder.exists():
        raise ServiceMissing("the generators of clients are not in the cache: ./dev services generators")
    return Generators(folder)


def _succeed(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-10_000:]
    return output


def _folder() -> Path:
    return cached_folder("generators", VERSION, _MANIFEST)

"""The fake model server: OpenAI, Anthropic and Gemini over real HTTP, with a journal of its requests."""

import json
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import run as run_program
from typing import TypeAlias, TypedDict

from tests.services.cache import ServiceMissing, cached_folder, filling, run, say, tool
from tests.services.process import answers, free_port, running

VERSION = "1.43.0"
OLDEST_NODE = (20, 15)
_HERE = Path(__file__).parent
_MANIFEST = [_HERE / ".npmrc", _HERE / "package.json", _HERE / "package-lock.json"]

_FIRST = {"match": {"userMessage": "start"}, "response": {"content": "strict mode does not start without a fixture"}}

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class JournalResponse(TypedDict, total=False):
    """The response of the server."""

    status: int


class JournalEntry(TypedDict):
    """One request that reached the server. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Json]
    response: JournalResponse


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A running server. It refuses requests without a matching fixture, so a typo in a test is an error."""

    base_url: str
    """Without path: Anthropic's and Gemini's base URL."""

    @property
    def openai_url(self) -> str:
        """OpenAI's base URL."""
        return f"{self.base_url}/v1"

    def answer(self, *fixtures: Mapping[str, Json]) -> None:
        """Add fixtures, `{"match": {"userMessage": "hello"}, "response": {"content": "Hi"}}`; the first match wins."""
        self._call("POST", "/fixtures", {"fixtures": list(fixtures)})

    def fail_next(self, status: int, *, message: str = "injected", kind: str = "server_error") -> None:
        """Answer the next request with an error of this HTTP status, once."""
        self._call("POST", "/error", {"status": status, "body": {"message": message, "type": kind}})

    def chaos(self, **rates: float) -> None:
        """Disturb all later requests: `dropRate`, `malformedRate`, `disconnectRate`, `rateLimitRate` from 0 to 1."""
        self._call("POST", "/chaos", rates)

    def journal(self) -> list[JournalEntry]:
        """Every request since the last reset, oldest first."""
        entries: list[JournalEntry] = json.loads(self._call("GET", "/journal"))
        return entries

    def reset(self) -> None:
        """Delete fixtures, journal and chaos settings."""
        self._call("POST", "/reset", {})

    def _call(self, method: str, path: str, body: Json = None) -> bytes:
        request = urllib.request.Request(
            f"{self.base_url}/__aimock{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: bytes = response.read()
            return answer


def fetch() -> Path:
    """Fetch the server into the cache (10 seconds), without install scripts. Returns its folder."""
    target = _folder()
    if target.exists():
        return target
    _node()
    npm = tool("npm", needed_for="aimock", package="nodejs npm")
    say(f"fetching aimock {VERSION}")
    with filling(target) as folder:
        for file in _MANIFEST:
            (folder / file.name).write_bytes(file.read_bytes())
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
    return target


@contextmanager
def serve() -> Iterator[ModelServer]:
    """A server on a free port until the block ends. Raises `ServiceMissing` when it was not fetched."""
    program = _folder() / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    if not program.exists():
        raise ServiceMissing("aimock is not in the cache: ./dev services aimock")
    base_url = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory(prefix="spanloom-aimock-") as folder:
        fixtures = Path(folder) / "fixtures.json"
        fixtures.write_text(json.dumps({"fixtures": [_FIRST]}))
        options = ["--port", str(port), "--fixtures", str(fixtures), "--journal-max", "0", "--strict"]
        with running(
            [_node(), str(program), *options],
            log=Path(folder) / "log",
            ready=lambda: answers(f"{base_url}/__aimock/health"),
        ):
            server = ModelServer(base_url)
            server.reset()
            yield server


def _folder() -> Path:
    return cached_folder("aimock", VERSION, _MANIFEST)


def _node() -> str:
    node = tool("node", needed_for="aimock", package="nodejs npm")
    version = run_program([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    major, minor = version.removeprefix("v").split(".")[:2]
    if (int(major), int(minor)) < OLDEST_NODE:
        raise ServiceMissing(f"aimock needs Node {'.'.join(map(str, OLDEST_NODE))} or newer, this is {version}")
    return node

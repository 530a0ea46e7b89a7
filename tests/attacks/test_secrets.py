"""Secrets and content: files that others could read, logs at debug, tables, error texts."""

import json
import os
import sqlite3
import stat
import subprocess
from collections import defaultdict
from contextlib import AsyncExitStack, closing
from pathlib import Path
from threading import Event, Thread
from typing import Self, cast

import httpx2
import pytest

from engine.database.database import Database
from engine.store.checkpoints import open_checkpoints
from tests.api.cli.shell import SECONDS, SPANLOOM, Shell
from tests.attacks.model_server import provider, tool_call
from tests.services.process import free_port

OTHERS = 0o077


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder of its own."""
    return Shell(tmp_path)


class Watch:
    """Sees the rights of every file in a folder, many times a second."""

    def __init__(self, folder: Path) -> None:
        self.seen: dict[str, set[int]] = defaultdict(set)
        self._folder = folder
        self._stop = Event()
        self._thread = Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    try:
                        mode = entry.stat().st_mode
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(mode):
                        self.seen[entry.name].add(stat.S_IMODE(mode))


def test_no_file_is_ever_readable_by_others(shell: Shell) -> None:
    commands = (
        ("run", "document_qa", "--param", "path=texts", "-m", "lighthouse"),
        ("webhooks", "add", "https://127.0.0.1/a"),
    )
    with Watch(shell.folder) as watch:
        for command in commands:
            subprocess.run(
                [SPANLOOM, *command],
                cwd=shell.folder,
                env={**os.environ, "SPANLOOM_EGRESS_ALLOW": "127.0.0.0/8"},
                preexec_fn=lambda: os.umask(0) and None,
                check=True,
                capture_output=True,
                timeout=SECONDS,
            )
    assert {"spanloom.db", "spanloom.db-wal", "spanloom.db-shm", "spanloom.db.key"} <= watch.seen.keys()
    assert {name: modes for name, modes in watch.seen.items() if any(mode & OTHERS for mode in modes)} == {}


@pytest.mark.parametrize("opener", ["database", "checkpoints"])
async def test_the_file_is_private_before_sqlite_opens_it(
    opener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new.db"
    found: list[int] = []
    connect = sqlite3.connect

    def observed(*arguments: object, **named: object) -> sqlite3.Connection:
        found.append(stat.S_IMODE(file.stat().st_mode) if file.exists() else -1)
        return cast(sqlite3.Connection, connect(*arguments, **named))  # type: ignore[call-overload]  # passed on

    monkeypatch.setattr(sqlite3, "connect", observed)
    before = os.umask(0)
    try:
        if opener == "database":
            async with AsyncExitStack() as stack:
                database = await stack.enter_async_context(Database(f"sqlite:///{file}"))
                await stack.enter_async_context(database.begin())
        else:
            async with open_checkpoints(f"sqlite:///{file}") as checkpoints:
                await checkpoints.setup()
    finally:
        os.umask(before)
    assert set(found) == {0o600}


@pytest.mark.parametrize("link", [False, True])
async def test_a_file_that_is_there_keeps_its_rights(tmp_path: Path, link: bool) -> None:
    file = tmp_path / "there.db"
    name = tmp_path / "link.db" if link else file
    if link:
        name.symlink_to(file)
    else:
        file.touch(mode=0o660)
        file.chmod(0o660)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(f"sqlite:///{name}"))
        await stack.enter_async_context(database.begin())
    assert stat.S_IMODE(file.stat().st_mode) == (0o600 if link else 0o660)


CANARIES = {
    "prompt": "canary-prompt-1f",
    "answer": "canary-answer-2e",
    "tool argument": "canary-tool-3d",
    "param": "canary-param-4c",
    "query": "canary-query-5b",
    "header": "canary-header-6a",
    "provider key": "canary/key with+no shape",
    "secret key": "canary-secret-key-of-more-than-32-characters",
    "webhook header": "canary-webhook-header",
    "webhook url": "canary-webhook-url",
}
CONTENT = {
    "prompt": {"execution_control.request", "conversation_messages.content"},
    "answer": {"execution_control.result", "conversation_messages.content"},
    "tool argument": {"execution_control.result"},
    "param": {"execution_control.request", "execution_control.subject", "executions.params", "graphs.graph"},
}
"""Where content may stand, by what it is; anything else stands nowhere."""


@pytest.fixture(params=["text", "json"])
def served(shell: Shell, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A folder with the database of a service that was told every canary, and what it printed at debug."""
    call = tool_call("search_docs", {"query": CANARIES["tool argument"]})
    port = free_port()
    with provider([call], [CANARIES["answer"]]) as address:
        process = shell.start(
            "serve",
            PORT=str(port),
            OPENAI_API_KEY=CANARIES["provider key"],
            OPENAI_BASE_URL=address,
            SPANLOOM_LOG_LEVEL="debug",
            SPANLOOM_LOG_FORMAT=str(request.param),
            SPANLOOM_SECRET_KEY=CANARIES["secret key"],
            SPANLOOM_FILES_ROOTS=str(shell.folder / "texts"),
            SPANLOOM_EGRESS_ALLOW="127.0.0.0/8",
        )
        try:
            _tell(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            out, err = process.communicate(timeout=SECONDS)
    return shell.folder, out + err


def _tell(url: str) -> None:
    header = {"authorization": f"Token {CANARIES['header']}", "x-own": CANARIES["header"]}
    with httpx2.Client(base_url=url, headers=header, trust_env=False, timeout=SECONDS) as client:
        for _ in range(SECONDS * 10):
            try:
                client.get("/healthz")
                break
            except httpx2.TransportError:
                Event().wait(0.1)
        endpoint = {
            "url": f"https://127.0.0.1:1/a?token={CANARIES['webhook url']}",
            "events": ["workflow.execution.completed"],
            "headers": {"X-Own": CANARIES["webhook header"]},
        }
        made = client.post("/v1/webhooks/endpoints", json=endpoint)
        assert made.status_code == 201, made.text
        source = {"kind": "template", "template": "tool_agent", "params": {"system_message": CANARIES["param"]}}
        asked = client.post("/v1/executions", json={"source": source, "input": {"message": CANARIES["prompt"]}})
        assert asked.status_code == 200, asked.text
        assert asked.json()["response"] == CANARIES["answer"], asked.text
        client.get("/v1/executions", params={"conversation_id": CANARIES["query"]})
        client.get("/v1/executions", params={"unknown": CANARIES["query"]})


@pytest.mark.slow
def test_a_log_at_debug_and_the_tables_hold_no_content_and_no_secret(served: tuple[Path, str]) -> None:
    folder, printed = served
    assert "debug" in printed.lower()
    assert [what for what, canary in CANARIES.items() if canary in printed] == []
    with closing(sqlite3.connect(folder / "spanloom.db")) as database:
        places = {what: _places(database, canary) for what, canary in CANARIES.items()}
    assert {what: found - CONTENT.get(what, set()) for what, found in places.items() if found} == {
        what: set() for what, found in places.items() if found
    }


def _places(database: sqlite3.Connection, canary: str) -> set[str]:
    """Table and column of each cell that holds the canary."""
    found: set[str] = set()
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in database.execute(f"PRAGMA table_info({table})").fetchall():
            column = row[1]
            statement = f"SELECT 1 FROM {table} WHERE instr(CAST({column} AS TEXT), ?) > 0 LIMIT 1"
            if database.execute(statement, (canary,)).fetchone():
                found.add(f"{table}.{column}")
    return found


def test_a_providers_refusal_is_short_and_without_the_keys_of_this_process(shell: Shell) -> None:
    secret, own = "another key of this process; 32 +", "canary/key with+no shape"
    echo = f"{own} {secret} Authorization: Basic YW5uYTpnZWhlaW0x {json.dumps({'k': own})} " + "x" * 5_000
    with provider([echo], status=400) as address:
        done = shell.run(
            "run", "universal_chat", "-m", "hi", "--json",
            OPENAI_API_KEY=own, OPENAI_BASE_URL=address, SPANLOOM_SECRET_KEY=secret,
        )  # fmt: skip
    message = json.loads(done.stdout)["error_message"]
    assert len(message) < 500
    for text in (own, secret, "YW5uYTpnZWhlaW0x"):
        assert text not in done.stdout + done.stderr

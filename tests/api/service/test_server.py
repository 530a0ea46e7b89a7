"""Starting and stopping: where the service listens, and that a signal loses nothing."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from api.access import keys
from api.access.keys import NewKey
from api.cli.commands.serve import run_service
from api.service.server import CannotListen, default_roles, listen, serve
from api.settings import Settings, SettingsInvalid
from api.wiring.access import build_hasher, check_bind
from engine.database.database import Database
from engine.testing.models import Hold, Say
from tests.api.harness import client_of, request, running
from tests.house.lock import ROOT
from tests.misbehaving_collector import TOKEN
from tests.services.process import SPANLOOM

SECONDS = 30


async def test_what_runs_may_end_while_the_service_stops(migrated_url: str) -> None:
    async with running(migrated_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start())
        await service.model.entered.wait()
        service.server.should_exit = True
        ready = await service.client.get("/readyz")
        while ready.status_code == 200:
            ready = await service.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["draining"]["ok"]) == (503, False)
        refused = await service.start()
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "draining", "5")
        service.model.release.set()
        assert (await waiting).json()["response"] == "done"
        await service.serving


async def test_what_does_not_end_in_time_is_cancelled_and_told(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold()], drain_seconds=0.0) as service:
        waiting = asyncio.create_task(service.start())
        await service.model.entered.wait()
        service.server.should_exit = True
        answer = (await waiting).json()
        assert (answer["status"], answer["metadata"]["cancel_reason"]) == ("cancelled", "the engine is shutting down")
        await service.serving


async def test_sigterm_ends_the_process_with_its_books_closed(migrated_sqlite_url: str, tmp_path: Path) -> None:
    environment = os.environ | {"SPANLOOM_DATABASE_URL": migrated_sqlite_url, "SPANLOOM_BIND": "127.0.0.1:0"}
    program = Path(sys.executable).with_name("spanloom")
    process = await asyncio.create_subprocess_exec(
        program, "serve", cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"ready at " not in (line := await process.stderr.readline()):
            assert line, "it ended before it was ready"
    url = line.decode().partition("ready at ")[2].split('"')[0].strip()
    body = request(source={"kind": "template", "template": "universal_chat"})
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.post("/v1/executions", json=body)).json()["status"] == "completed"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert not Path(migrated_sqlite_url.removeprefix("sqlite:///") + "-wal").exists()


def test_the_role_ingest_imports_neither_engine_nor_http_application(migrated_sqlite_url: str, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from api.service import server\n"
        "async def at_once(): pass\n"
        "server._signal = at_once\n"
        "sys.argv = ['spanloom', 'serve', '--role', 'ingest']\n"
        "from api.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*sys.modules)\n"
    )
    environment = os.environ | {
        "SPANLOOM_DATABASE_URL": migrated_sqlite_url,
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_BIND": "127.0.0.1:0",
        "SPANLOOM_INGEST_TOKENS": TOKEN,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    heavy = {"langgraph", "langchain_core", "fastapi", "cel_expr_python", "jsonschema_rs", "cryptography", "httpx2"}
    assert (
        imported & (heavy | {"api.service.app", "engine.engine", "engine.expressions.cel", "opentelemetry.exporter"})
        == set()
    )
    assert {"api.service.ingest", "telemetry.collector.receiver"} <= imported


async def test_answers_do_not_wait_for_the_network_to_acknowledge_their_headers(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url) as service:
        await service.client.get("/healthz")
        [connection] = service.server.server_state.connections
        assert connection.transport is not None
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_taken_port_is_said() -> None:
    with listen("127.0.0.1", 0) as taken:
        with pytest.raises(CannotListen, match=r"Address already in use.*SPANLOOM_BIND"):
            listen(*taken.getsockname())


@pytest.mark.parametrize("bind", ["0.0.0.0:8000", "[::]:80", "192.168.1.5:8000", "spanloom.internal:8000"])
def test_an_address_beyond_loopback_is_refused(bind: str) -> None:
    """There is no secret key by which keys are recognised, and once there is one, no key."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    with pytest.raises(SettingsInvalid, match="needs SPANLOOM_SECRET_KEY"):
        check_bind(Settings(bind=bind, database_url=url))
    check_bind(Settings(bind=bind, database_url=url, secret_key=("x" * 32,)))
    check_bind(Settings(bind=bind))


@pytest.mark.parametrize("bind", ["127.0.0.1:80", "localhost:80", "[::1]:80", None])
def test_loopback_is_allowed(bind: str | None) -> None:
    check_bind(Settings(bind=bind))


async def test_without_a_key_nobody_beyond_this_machine_is_let_in(migrated_sqlite_url: str) -> None:
    """The service does not begin, and says how."""
    settings = Settings(database_url=migrated_sqlite_url, bind="0.0.0.0:0")
    with pytest.raises(SettingsInvalid, match=r"no API key.*spanloom keys create"):
        await serve(settings, frozenset({"api"}))


async def test_with_a_key_the_service_may_be_reached_and_asks_everybody_for_one(migrated_sqlite_url: str) -> None:
    async with Database(migrated_sqlite_url) as database, database.begin() as connection:
        settings = Settings(database_url=migrated_sqlite_url, bind="0.0.0.0:0")
        new = NewKey("ann", "laptop", ["executions:read"])
        _, key = await keys.create(connection, new, build_hasher(settings))
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(settings, frozenset({"api"}), ready.set_result), name="service")
    port = (await ready).rpartition(":")[2]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        for host in ("127.0.0.1", "anything.example"):
            assert (await client.get("/v1/me", headers={"Host": host})).status_code == 401
            admitted = await client.get("/v1/me", headers={"Host": host, "Authorization": f"Bearer {key}"})
            assert admitted.json()["owner"] == "ann"
            scraped = await client.get("/metrics", headers={"Host": host})
            assert scraped.status_code == (200 if host == "127.0.0.1" else 401)
        proxied = await client.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"})
        assert proxied.status_code == 401
        signal.raise_signal(signal.SIGTERM)
        await serving


def test_ingest_is_a_role_where_there_is_a_collector() -> None:
    assert default_roles(Settings()) == {"api", "worker", "keeper"}
    assert default_roles(Settings(pipeline="collector")) == {"api", "worker", "keeper", "ingest"}


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="api, worker, keeper, ingest"):
        run_service("api,janitor")


async def test_a_process_of_its_own_may_take_signals_back(migrated_sqlite_url: str) -> None:
    environment = os.environ | {
        "SPANLOOM_DATABASE_URL": migrated_sqlite_url,
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_TOKENS": f"{TOKEN[::-1]},{TOKEN}",
        "SPANLOOM_INGEST_BIND": "127.0.0.1:0",
    }
    command = (*SPANLOOM, "serve", "--role", "ingest")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        while b"listening for the Collector at " not in (line := await process.stderr.readline()):
            assert line, "it ended before it was ready"
    url = line.decode().partition("Collector at ")[2].split('"')[0].strip()
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/x-protobuf"}
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.post("/internal/otlp/v1/traces", content=b"", headers=headers)).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), SECONDS) == 0

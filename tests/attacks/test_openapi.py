"""schemathesis, all checks, over the whole OpenAPI document of a real server: every answer is a documented one."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from api.access import keys
from api.access.keys import KeyHasher, NewKey
from api.access.scopes import SCOPES
from engine.database.database import Database
from tests.faults.server_process import server_process
from tests.house.lock import ROOT

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_SECRET = "s" * 32
_COMMAND = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_service_is_what_its_openapi_document_says(migrated_url: str, tmp_path: Path) -> None:
    key = await _key(migrated_url)
    async with server_process(tmp_path, migrated_url, environment={"SPANLOOM_SECRET_KEY": _SECRET}) as server:
        arguments = ("--config-file", str(_CONFIG), "run", f"{server.url}/openapi.json", "--checks", "all")
        # One worker: in several threads ast.parse of Python 3.11 confuses its depth of recursion.
        limits = ("--workers", "1", "--max-examples", "8", "--no-color", "--no-shrink")
        sent = ("--header", f"Authorization: Bearer {key}")
        process = await asyncio.create_subprocess_exec(
            str(_COMMAND),
            *arguments,
            *limits,
            *sent,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.attacks.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        report, _ = await process.communicate()
        assert process.returncode == 0, report.decode()[-20_000:]
        assert f"Tested: {await _operations(server.url)}\n" in report.decode(), report.decode()[-2_000:]
        assert '"request failed"' not in server.logs()


async def _key(url: str) -> str:
    """A key with every scope."""
    async with Database(url) as database, database.begin() as connection:
        return (await keys.create(connection, NewKey("ann", "attack", [*SCOPES]), KeyHasher(lambda: [_SECRET])))[1]


async def _operations(url: str) -> int:
    async with httpx.AsyncClient(base_url=url) as client:
        document = (await client.get("/openapi.json")).json()
    return sum(len(operations) for operations in document["paths"].values())

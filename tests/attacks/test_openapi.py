"""schemathesis, all checks, over the whole OpenAPI document of a real server: every answer is a documented one."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.faults.server_process import server_process
from tests.house.lock import ROOT

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_COMMAND = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_service_is_what_its_openapi_document_says(migrated_url: str, tmp_path: Path) -> None:
    async with server_process(tmp_path, migrated_url) as server:
        arguments = ("--config-file", str(_CONFIG), "run", f"{server.url}/openapi.json", "--checks", "all")
        # One worker: in several threads ast.parse of Python 3.11 confuses its depth of recursion.
        limits = ("--workers", "1", "--max-examples", "8", "--no-color", "--no-shrink")
        process = await asyncio.create_subprocess_exec(
            str(_COMMAND),
            *arguments,
            *limits,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.attacks.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        report, _ = await process.communicate()
        assert process.returncode == 0, report.decode()[-20_000:]
        assert f"Tested: {await _operations(server.url)}\n" in report.decode(), report.decode()[-2_000:]
        assert '"request failed"' not in server.logs()


async def _operations(url: str) -> int:
    async with httpx.AsyncClient(base_url=url) as client:
        document = (await client.get("/openapi.json")).json()
    return sum(len(operations) for operations in document["paths"].values())

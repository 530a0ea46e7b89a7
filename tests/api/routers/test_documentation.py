"""The page /docs in a real browser: the whole API, no error in the console, nothing from another origin."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser

from tests.conftest import found
from tests.faults.server_process import ServerProcess, server_process
from tests.services.chromium import server as chromium


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    found(chromium.fetch)
    async with chromium.serve() as browser:
        yield browser


@pytest.fixture
async def server(migrated_sqlite_url: str, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path, migrated_sqlite_url) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_person_reads_the_api_and_tries_a_route(browser: Browser, server: ServerProcess) -> None:
    page = await browser.new_page(viewport={"width": 1_366, "height": 900})
    errors, addresses = list[str](), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: addresses.append(request.url))
    await page.goto(f"{server.url}/docs")
    await page.locator("#operations-executions-executions_start").wait_for()
    route = page.locator("#operations-operations-operations_health")
    await route.locator(".opblock-summary-control").click()
    await route.get_by_role("button", name="Try it out").click()
    await route.get_by_role("button", name="Execute").click()
    await route.locator(".live-responses-table").get_by_text('"status": "ok"').wait_for()
    assert errors == []
    assert [url for url in addresses if not url.startswith((server.url, "data:"))] == []


@pytest.mark.slow
async def test_the_page_is_there_for_loopback_and_elsewhere_where_it_is_asked_for(
    migrated_sqlite_url: str, tmp_path: Path
) -> None:
    off = {"SPANLOOM_DOCS": "false"}
    async with (
        server_process(tmp_path, migrated_sqlite_url, environment=off) as server,
        httpx2.AsyncClient(base_url=server.url) as client,
    ):
        for path in ("/docs", "/docs/swagger-ui.css"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.slow
async def test_only_its_own_files_are_served(server: ServerProcess) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        for name in ("LICENSE", "..%2f..%2fsettings.py", "%2e%2e/settings.py", "start.js%00", ""):
            assert (await client.get(f"/docs/{name}")).status_code in (404, 422), name
        policy = (await client.get("/docs")).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy

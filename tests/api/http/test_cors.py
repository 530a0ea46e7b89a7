"""Which web pages may call the service: those of listed origins, with a key."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from api.access import keys
from api.access.keys import NewKey
from api.settings import Settings
from api.wiring.access import build_hasher
from engine.database.database import Database
from tests.api.harness import Service, running

PAGE = "https://app.example"


async def make_key(url: str) -> str:
    """A key of ann."""
    async with Database(url) as database, database.begin() as connection:
        hasher = build_hasher(Settings(database_url=url))
        return (await keys.create(connection, NewKey("ann", "page", ["executions:read"]), hasher))[1]


@pytest.fixture
async def listed(migrated_sqlite_url: str) -> AsyncIterator[tuple[Service, str]]:
    """A service with a key that lists one origin."""
    key = await make_key(migrated_sqlite_url)
    async with running(migrated_sqlite_url, cors_origins=(PAGE,)) as service:
        yield service, key


async def preflight(service: Service, origin: str, headers: str = "authorization") -> httpx2.Response:
    """What a browser asks before it sends a request with a key."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return await service.client.options("/v1/executions", headers=asked)


async def test_a_listed_page_is_let_in_without_a_key_in_the_preflight(listed: tuple[Service, str]) -> None:
    service, key = listed
    asked = await preflight(service, PAGE, "authorization,idempotency-key,traceparent,content-type")
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-credentials" not in asked.headers
    answer = await service.client.get("/v1/me", headers={"Origin": PAGE, "Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "X-Execution-ID" in answer.headers["access-control-expose-headers"]
    refused = await service.client.get("/v1/me", headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", "https://app.example:444", "null"])
async def test_another_page_is_not_let_in(listed: tuple[Service, str], origin: str) -> None:
    service, key = listed
    for answer in (
        await preflight(service, origin),
        await service.client.get("/v1/me", headers={"Origin": origin, "Authorization": f"Bearer {key}"}),
    ):
        assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_an_unlisted_header_fails_the_preflight(listed: tuple[Service, str]) -> None:
    assert (await preflight(listed[0], PAGE, "x-owner")).status_code == 400


async def test_without_keys_no_page_is_let_in(migrated_sqlite_url: str) -> None:
    """It could do everything."""
    async with running(migrated_sqlite_url, cors_origins=("*",)) as service:
        answer = await service.client.get("/v1/me", headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in (await preflight(service, PAGE)).headers


async def test_by_default_no_page_is_let_in(migrated_sqlite_url: str) -> None:
    key = await make_key(migrated_sqlite_url)
    async with running(migrated_sqlite_url) as service:
        answer = await service.client.get("/v1/me", headers={"Origin": PAGE, "Authorization": f"Bearer {key}"})
        assert "access-control-allow-origin" not in answer.headers
        assert (await preflight(service, PAGE)).status_code == 405


async def test_for_all_pages_no_cookies_are_allowed(migrated_sqlite_url: str) -> None:
    key = await make_key(migrated_sqlite_url)
    async with running(migrated_sqlite_url, cors_origins=("*",)) as service:
        answer = await service.client.get("/v1/me", headers={"Origin": PAGE, "Authorization": f"Bearer {key}"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers

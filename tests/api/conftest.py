"""A running service, on SQLite, and on both databases where they matter."""

from collections.abc import AsyncIterator

import pytest

from tests.api.harness import Service, running
from tests.books_audit import books_agree, books_left_open

__all__ = ["books_agree", "books_left_open"]


@pytest.fixture
async def service(migrated_sqlite_url: str) -> AsyncIterator[Service]:
    """A service over SQLite."""
    async with running(migrated_sqlite_url) as started:
        yield started


@pytest.fixture
async def stored_service(migrated_url: str) -> AsyncIterator[Service]:
    """A service, once over SQLite and once over PostgreSQL."""
    async with running(migrated_url) as started:
        yield started

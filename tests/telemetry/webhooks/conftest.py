"""A database and a webhook receiver for each test."""

from collections.abc import AsyncIterator

import pytest

from engine.database.database import Database
from tests.telemetry.receiver import receiving
from tests.telemetry.webhooks.post import Post


@pytest.fixture
async def post(database: Database) -> AsyncIterator[Post]:
    """A database and a receiver."""
    async with receiving() as receiver:
        yield Post(database, receiver)

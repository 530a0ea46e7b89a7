"""Both formats of `/metrics` have the same numbers."""

from engine.database.database import Database
from tests.telemetry.scraping import made, register, scrape


async def test_plain_text_has_the_same_numbers(database: Database) -> None:
    await register(database)
    metrics = made(database)
    content_type, _ = await metrics.exposition("text/plain")
    assert content_type.startswith("text/plain")
    plain, opened = await scrape(metrics, "text/plain"), await scrape(metrics)
    assert {name: value for name, value in opened.items() if "_created" not in name} == {
        name: value for name, value in plain.items() if "_created" not in name
    }

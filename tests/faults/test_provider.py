"""The books of the model server are those of the service, to the nano-dollar, whatever the source and the way."""

from pathlib import Path

import pytest

from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.graph import JsonObject
from engine.store.definitions import save_definition
from tests.engine.harness import graph
from tests.faults.clients import AGENT, SLUG, SOURCES
from tests.faults.invariants import Evidence, by_invariant, violations
from tests.faults.provider import INPUT_NANO_USD, KEY, MODEL, OUTPUT_NANO_USD, Provider, provider
from tests.workflow_runner import request, streamed


def settings_for(models: Provider, url: str, folder: Path) -> Settings:
    """A service that asks this provider."""
    told = models.environment(folder)
    return Settings(
        database_url=url,
        model=f"openai:{MODEL}",
        prices=Path(told["SPANLOOM_PRICES"]),
        openai_api_key=KEY,
        openai_base_url=models.openai_url,
    )


async def store_agent(runtime: Runtime) -> None:
    """The definition among the sources."""
    async with runtime.database.begin() as connection:
        await save_definition(connection, "default", SLUG, SLUG, AGENT, "hash of the agent")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source["kind"]))
async def test_tokens_and_cost_are_those_of_the_provider(
    migrated_sqlite_url: str, tmp_path: Path, source: JsonObject
) -> None:
    async with provider(tmp_path / "provider") as models:
        async with open_runtime(settings_for(models, migrated_sqlite_url, tmp_path)) as runtime:
            await store_agent(runtime)
            for wanted in (request(source, "hello"), request(source, "hello again")):
                result = await streamed(runtime.engine, wanted)
                again = await runtime.engine.execute(wanted)
                assert (result.status, again.status) == ("completed", "completed")
                assert result.cost_nano_usd == again.cost_nano_usd
            finished = models.ledger.of("finished")
            assert len(finished) == len(models.ledger.of("asked")) > 0
            assert await violations(runtime.database, Evidence(provider=models.ledger)) == []
    cost = sum(_number(fact, "prompt_tokens") * INPUT_NANO_USD for fact in finished)
    cost += sum(_number(fact, "completion_tokens") * OUTPUT_NANO_USD for fact in finished)
    assert cost > 0


async def test_a_call_that_the_provider_finished_and_nobody_booked_is_found(
    migrated_sqlite_url: str, tmp_path: Path
) -> None:
    async with provider(tmp_path / "provider") as models:
        async with open_runtime(settings_for(models, migrated_sqlite_url, tmp_path)) as runtime:
            await runtime.engine.execute(request(SOURCES[0], "hello"))
            models.ledger.write_now(what="finished", call="chatcmpl-x", prompt_tokens=5, completion_tokens=5)
            found = await violations(runtime.database, Evidence(provider=models.ledger))
    assert by_invariant(found) == {"I7": 1}


async def test_refusals_are_written_down_and_cost_nothing(migrated_sqlite_url: str, tmp_path: Path) -> None:
    async with provider(tmp_path / "provider") as models:
        models.refuses = 1.0
        async with open_runtime(settings_for(models, migrated_sqlite_url, tmp_path)) as runtime:
            once = graph([{"id": "ask", "type": "model", "retry": {"max_attempts": 1}}], ["start -> ask", "ask -> end"])
            result = await runtime.engine.execute(request({"kind": "graph", "graph": once}, "hello"))
            assert (result.status, result.cost_nano_usd) == ("failed", 0)
            assert await violations(runtime.database, Evidence(provider=models.ledger)) == []
        assert [fact["what"] for fact in models.ledger.facts()] == ["asked", "refused"]


def _number(fact: JsonObject, name: str) -> int:
    value = fact[name]
    assert isinstance(value, int)
    return value

"""Attack: a provider that lies about its tokens. The books stay true, and the execution ends as usual."""

import json
from collections.abc import AsyncIterator
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from engine.database.database import Database
from engine.testing.models import Say
from engine.tracing import semconv
from engine.tracing.spans import MAX_NANO_USD
from engine.usage import MAX_COUNT, TOKEN_FIELDS, Usage
from telemetry.store.tables import execution_rollups, spans, webhook_events
from tests.attacks.test_model_answers import asking
from tests.both_modes import add_endpoint
from tests.engine.harness import Harness, graph
from tests.faults.hostile_provider import PROVIDERS, HostileProvider, hostile_provider
from tests.faults.hostile_wire import Counts
from tests.faults.server_process import server_process

LIES = ("1" + "0" * 30, "9223372036854775808", "1000000000001", "-5", "1.5", "12.0", '"12"', '"many"', "true", "NaN")
PRICES = {f"{provider}:honest": {"input_mtok": "1", "output_mtok": "2"} for provider in PROVIDERS}
HONEST = Counts()
HONEST_NANO_USD = 100 * 1_000 + 50 * 2_000


@pytest.fixture
async def liar() -> AsyncIterator[HostileProvider]:
    async with hostile_provider() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_impossible_counts_are_unknown_everywhere_and_counted(
    liar: HostileProvider, migrated_url: str, tmp_path: Path
) -> None:
    async with Database(migrated_url) as database:
        await add_endpoint(database)
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    environment = {**liar.environment, "SPANLOOM_PRICES": str(prices)}
    lies = [Counts(input=lie) for lie in LIES] + [Counts(output=lie) for lie in LIES]
    async with (
        server_process(tmp_path, migrated_url, environment=environment) as server,
        httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        for (counts, provider), stream in zip(product([*lies, HONEST], PROVIDERS), cycle([True, False])):
            liar.counts = counts
            await _check_answers(http, provider, stream=stream, is_known=counts is HONEST)
        metrics = (await http.get("/metrics")).text
        cost = (await http.get("/v1/analytics/cost")).json()
    counted = [line for line in metrics.splitlines() if line.startswith("workflow_usage_rejected_total{")]
    assert sum(float(line.rpartition("} ")[2].split()[0]) for line in counted) == len(lies) * len(PROVIDERS)
    assert cost["total"]["cost_nano_usd"] == len(PROVIDERS) * HONEST_NANO_USD
    await _check_books(migrated_url, rejected=len(lies) * len(PROVIDERS))


async def _check_answers(http: httpx2.AsyncClient, provider: str, *, stream: bool, is_known: bool) -> None:
    """Run one execution; what the API says of it."""
    result = (await http.post("/v1/executions", json=asking(provider, "honest", node={"stream": stream}))).json()
    assert (result["status"], result["response"]) == ("completed", "Hello there"), result
    record = (await http.get(f"/v1/executions/{result['execution_id']}")).json()
    trace = (await http.get(f"/v1/executions/{result['execution_id']}/trace")).json()
    (call,) = [span for span in trace["spans"] if span["kind"] == "model"]
    for found in (result["usage"], record["usage"], call):
        assert [found["input_tokens"], found["output_tokens"]] == ([100, 50] if is_known else [None, None])
    for found in (result, record, call):
        assert found["cost_nano_usd"] == (HONEST_NANO_USD if is_known else None)
    assert result["unmetered_calls"] == record["unmetered_calls"] == (0 if is_known else 1)


async def _check_books(url: str, *, rejected: int) -> None:
    """What the tables say of all of them: span rows, roll-ups, webhooks."""
    async with Database(url) as database, database.read() as connection:
        calls = (await connection.execute(select(spans).where(spans.c.kind == "model"))).mappings().all()
        rollups = (await connection.execute(select(execution_rollups))).mappings().all()
        bodies = [row.body for row in await connection.execute(select(webhook_events.c.body))]
    marked = [call for call in calls if (call["attributes"] or {}).get(semconv.USAGE_REJECTED)]
    assert len(marked) == rejected
    assert {call[name] for call in marked for name in (*TOKEN_FIELDS, "cost_nano_usd")} == {None}
    assert sum(row["input_tokens"] for row in rollups) == len(PROVIDERS) * 100
    assert sum(row["unmetered_calls"] for row in rollups) == rejected
    said = [json.loads(body)["data"] for body in bodies]
    assert len(said) == rejected + len(PROVIDERS)
    assert sum(_tokens(each) for each in said) == len(PROVIDERS) * 150


def _tokens(said: dict[str, Any]) -> int:
    return (said["usage"]["input_tokens"] or 0) + (said["usage"]["output_tokens"] or 0)


COUNT = (
    st.none() | st.integers() | st.integers(0, MAX_COUNT) | st.sampled_from([0, MAX_COUNT, MAX_COUNT + 1, -1, 2**63])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.fixed_dictionaries(dict.fromkeys(Usage.model_fields, COUNT)), min_size=1, max_size=4))
async def test_no_count_of_any_model_makes_a_sum_that_cannot_be(counts: list[dict[str, int | None]]) -> None:
    """For models of users too, whose adapters report usage themselves."""
    usages = [Usage(**each) for each in counts]
    nodes = [{"id": f"n{number}", "type": "model"} for number in range(len(usages))]
    path = ["start", *(f"n{number}" for number in range(len(usages))), "end"]
    edges = [f"{source} -> {target}" for source, target in pairwise(path)]
    run = await Harness([Say("fine", usage=usage) for usage in usages]).run(graph(nodes, edges))  # type: ignore[arg-type]
    possible = [usage for usage in usages if usage.is_possible]
    assert run.result.status == "completed"
    for name in TOKEN_FIELDS:
        known = [count for usage in possible if (count := getattr(usage, name)) is not None]
        assert getattr(run.result.usage, name) == (sum(known) if known else None)
    assert 0 <= (run.result.cost_nano_usd or 0) <= len(usages) * MAX_NANO_USD
    calls = [span.attributes or {} for span in run.spans if span.name.startswith("chat")]
    assert sum(bool(call.get(semconv.USAGE_REJECTED)) for call in calls) == len(usages) - len(possible)


async def test_the_most_tokens_that_are_possible_have_no_absurd_cost() -> None:
    most = Usage(input_tokens=MAX_COUNT, output_tokens=0, total_tokens=MAX_COUNT)
    run = await Harness([Say("fine", usage=most)]).run(
        graph([{"id": "ask", "type": "model"}], ["start -> ask", "ask -> end"])
    )
    assert (run.result.usage.input_tokens, run.result.cost_nano_usd, run.result.unpriced_calls) == (MAX_COUNT, None, 1)

"""Scores are given by HTTP, replaced, read and averaged; a comment stays out of everything but its own table."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from engine.graph import Json, JsonObject
from engine.store.tables import execution_control
from telemetry.retention.job import Retention
from telemetry.store.tables import executions, webhook_events
from tests.api.harness import UNKNOWN_ID, Service, running
from tests.attacks.otlp_sink import Sink, otlp_sink
from tests.attacks.test_content import SECRET_KEY
from tests.misbehaving_collector import TOKEN
from tests.telemetry.retention.books import AGO, KEPT, compare_now

RATING: JsonObject = {"name": "rating", "value": 4, "source": "human", "comment": "Right, but long."}


async def run_one(service: Service) -> str:
    answer = await service.start()
    return str(answer.json()["execution_id"])


async def give(service: Service, id_: str, body: JsonObject) -> tuple[int, JsonObject]:
    answer = await service.client.post(f"/v1/executions/{id_}/scores", json=body)
    return answer.status_code, answer.json()


async def scores(service: Service, id_: str) -> list[JsonObject]:
    answer = await service.client.get(f"/v1/executions/{id_}/scores")
    assert answer.status_code == 200
    items: list[JsonObject] = answer.json()["items"]
    return items


async def test_a_second_score_of_the_same_name_and_source_replaces_the_first(service: Service) -> None:
    id_ = await run_one(service)
    bodies: list[JsonObject] = [
        RATING,
        {"name": "rating", "value": 2.5, "source": "human"},
        {**RATING, "source": "model"},
    ]
    for body in bodies:
        status, given = await give(service, id_, body)
        assert (status, given["value"]) == (200, body["value"])
    await give(service, id_, {"name": "format", "value": "valid", "source": "code"})

    found = [(one["name"], one["source"], one["value"], one["comment"]) for one in await scores(service, id_)]
    assert found == [
        ("format", "code", "valid", None),
        ("rating", "human", 2.5, None),
        ("rating", "model", 4.0, "Right, but long."),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "n" * 65},
        {"value": True},
        {"value": 1.1e15},
        {"value": -1e308},
        {"value": None},
        {"value": ""},
        {"value": "l" * 65},
        {"value": [1]},
        {"source": "robot"},
        {"comment": "c" * 4_097},
        {"rating": 1},
    ],
)
async def test_a_score_out_of_bounds_is_refused(service: Service, change: dict[str, Json]) -> None:
    id_ = await run_one(service)
    status, problem = await give(service, id_, {**RATING, **change})
    assert (status, problem["code"]) == (422, "invalid_request")
    assert await scores(service, id_) == []


async def test_a_score_that_is_no_number_is_refused(service: Service) -> None:
    id_ = await run_one(service)
    body = '{"name": "rating", "value": NaN, "source": "human"}'
    headers = {"content-type": "application/json"}
    answer = await service.client.post(f"/v1/executions/{id_}/scores", content=body, headers=headers)
    assert answer.status_code == 400


async def test_unknown_and_foreign_executions_have_no_scores(service: Service) -> None:
    id_ = await run_one(service)
    await change_owner(service, "somebody else")
    for unknown in (UNKNOWN_ID, id_):
        assert (await give(service, unknown, RATING))[0] == 404
        assert (await service.client.get(f"/v1/executions/{unknown}/scores")).status_code == 404
    await change_owner(service, "default")


async def change_owner(service: Service, owner: str) -> None:
    async with service.runtime.database.begin() as connection:
        for table in (executions, execution_control):
            await connection.execute(update(table).values(owner_id=owner))


@pytest.mark.usefixtures("books_left_open")
async def test_an_execution_is_judged_when_its_control_row_is_gone(service: Service) -> None:
    id_ = await run_one(service)
    database = service.runtime.database
    await give(service, id_, RATING)
    assert await compare_now(database) == []
    report = await Retention(database, replace(KEPT, content=AGO, idempotency=AGO)).delete_due()
    assert report.rows["execution_control"] == report.rows["score_comments"] == 1

    [kept] = await scores(service, id_)
    assert (kept["value"], kept["comment"]) == (4.0, None), "the comment is content, the number is not"
    status, again = await give(service, id_, {**RATING, "value": 5})
    assert (status, again["comment"]) == (200, None)
    assert [(one["value"], one["comment"]) for one in await scores(service, id_)] == [(5.0, None)]


async def test_means_are_told_per_workflow_and_version(service: Service) -> None:
    for value in (2, 5):
        await give(service, await run_one(service), {**RATING, "value": value})
    await give(service, await run_one(service), {"name": "format", "value": "valid", "source": "code"})

    answer = await service.client.get("/v1/analytics/scores")
    found = [(one["name"], one["label"], one["scores"], one["mean"]) for one in answer.json()["rows"]]
    assert found == [("format", "valid", 1, None), ("rating", None, 2, 3.5)]
    only = await service.client.get("/v1/analytics/scores", params={"name": "format", "source": "code"})
    assert len(only.json()["rows"]) == 1
    assert (await service.client.get("/v1/analytics/scores", params={"source": "robot"})).status_code == 422
    metrics = (await service.client.get("/metrics")).text
    assert 'spanloom_score_mean{name="rating",template="ask",version=""} 3.5' in metrics


@pytest.mark.parametrize("mode", ["embedded", "collector"])
async def test_a_score_reaches_the_trace_store_once(
    migrated_sqlite_url: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {"pipeline": mode, "secret_key": (SECRET_KEY,)}
    if mode == "collector":  # nothing comes back from the sink, so signals are served locally
        given |= {"ingest_tokens": (TOKEN,), "outbox_confirm_seconds": 0.2}
    with otlp_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        async with running(migrated_sqlite_url, None, **given) as service:
            id_ = await run_one(service)
            for _ in range(2):
                await give(service, id_, RATING)
                await stored(service, id_)
            found = (await service.client.get(f"/v1/executions/{id_}")).json()
            await exported(service, sink)
        [score] = [one for one in sink.events() if one.event_name == "gen_ai.evaluation.result"]
    assert (score.trace_id.hex(), score.span_id.hex()) == (found["trace_id"], found["root_span_id"])
    said = {each.key: each.value for each in score.attributes}
    assert said["gen_ai.evaluation.name"].string_value == "rating"
    assert said["gen_ai.evaluation.score.value"].double_value == 4.0
    assert not sink.holds("/v1/logs", "Right, but long.")


async def stored(service: Service, id_: str) -> None:
    """Wait until the execution has a score."""
    async with asyncio.timeout(30):
        while True:
            if await scores(service, id_):
                break
            await asyncio.sleep(0.05)


async def exported(service: Service, sink: Sink) -> None:
    """Wait until all events have left."""
    await asyncio.to_thread(service.runtime.telemetry.logger_provider.force_flush)
    async with asyncio.timeout(30):
        while True:
            if any(one.event_name == "gen_ai.evaluation.result" for one in sink.events()):
                break
            await asyncio.sleep(0.05)


async def test_a_comment_goes_with_what_is_forgotten(service: Service) -> None:
    id_ = await run_one(service)
    await give(service, id_, RATING)
    assert (await service.client.delete(f"/v1/executions/{id_}/content")).status_code == 204
    assert [(one["value"], one["comment"]) for one in await scores(service, id_)] == [(4.0, None)]


async def test_a_comment_is_in_no_event(service: Service) -> None:
    id_ = await run_one(service)
    await give(service, id_, RATING)
    async with service.runtime.database.read() as connection:
        bodies = (await connection.execute(select(webhook_events.c.body))).scalars().all()
    assert not any(b"Right, but long." in bytes(body) for body in bodies)

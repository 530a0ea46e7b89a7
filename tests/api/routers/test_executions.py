"""/v1/executions: what a caller gets who waits, looks, lists and cancels."""

import asyncio

import pytest

from engine.graph import Json, JsonObject
from engine.testing.models import Fail, Hold, Say
from telemetry.reconcile.audit import check_books
from tests.api.harness import ASK, Service, read_frames, request, running


async def test_wait_gives_the_result_of_a_stored_execution(stored_service: Service) -> None:
    answer = await stored_service.start(tags={"team": "a"})
    assert answer.status_code == 200
    result = answer.json()
    assert (result["status"], result["response"]) == ("completed", "Hello you there")
    found = (await stored_service.client.get(f"/v1/executions/{result['execution_id']}")).json()
    assert found["result"] == result
    assert found["tags"] == {"team": "a"}
    assert (found["content"], found["cancel_requested_at"], found["approvals"]) == ("shown", None, [])
    assert found["seal"]["complete"]
    assert sum(found["time"].values()) == found["duration_ms"]
    assert await check_books(stored_service.runtime.database) == []


async def test_a_failed_execution_is_answered_with_200(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Fail("auth")]) as service:
        answer = await service.start()
        assert (answer.status_code, answer.json()["status"], answer.json()["error_type"]) == (200, "failed", "auth")


async def test_an_execution_that_takes_longer_than_the_wait_goes_on(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("late"))]) as service:
        answer = await service.start("?wait_seconds=1")
        assert (answer.status_code, answer.json()["status"], answer.json()["result"]) == (202, "running", None)
        assert answer.headers["location"] == f"/v1/executions/{answer.json()['id']}"
        service.model.release.set()
        assert (await service.ended(answer.json()["id"])).status == "completed"


async def test_a_client_that_leaves_cancels_what_it_waits_for(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold()]) as service:
        waiting = asyncio.create_task(service.start())
        execution_id = await service.running_id()
        waiting.cancel()
        ended = await service.ended(execution_id)
        assert (ended.status, ended.cancel_reason) == ("cancelled", "the client left")


async def test_a_client_that_leaves_may_want_it_to_go_on(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, [Hold(Say("done"))]) as service:
        waiting = asyncio.create_task(service.start(on_disconnect="continue"))
        execution_id = await service.running_id()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        service.model.release.set()
        assert (await service.ended(execution_id)).status == "completed"


async def test_cancelling_is_asked_for_and_then_done(migrated_url: str) -> None:
    async with running(migrated_url, [Hold()]) as service:
        waiting = asyncio.create_task(service.start())
        path = f"/v1/executions/{await service.running_id()}/cancel"
        asked = await service.client.post(path, json={"reason": "enough"})
        assert asked.status_code == 202
        assert asked.json()["cancel_requested_at"] is not None
        result = (await waiting).json()
        assert (result["status"], result["metadata"]["cancel_reason"]) == ("cancelled", "enough")
        again = await service.client.post(path)
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_what_has_ended_cannot_be_cancelled(stored_service: Service) -> None:
    execution_id = (await stored_service.start()).json()["execution_id"]
    answer = await stored_service.client.post(f"/v1/executions/{execution_id}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "already_finished")
    assert answer.json()["execution_id"] == answer.headers["x-execution-id"] == execution_id


@pytest.mark.parametrize("path", ["", "/trace", "/cancel"])
async def test_an_unknown_id_is_not_found(stored_service: Service, path: str) -> None:
    for execution_id in ("01a20b66-91b7-745e-b3cc-f69ba7284313", "x" * 300):
        method = "POST" if path == "/cancel" else "GET"
        answer = await stored_service.client.request(method, f"/v1/executions/{execution_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_an_unfinished_execution_shows_what_is_known(migrated_url: str) -> None:
    async with running(migrated_url, [Hold()]) as service:
        waiting = asyncio.create_task(service.start())
        execution_id = await service.running_id()
        found = (await service.client.get(f"/v1/executions/{execution_id}")).json()
        assert (found["status"], found["duration_ms"], found["result"]) == ("running", None, None)
        assert (found["content"], found["seal"]["expected"]) == ("not_stored", None)
        trace = (await service.client.get(f"/v1/executions/{execution_id}/trace")).json()
        assert trace["spans"][0]["kind"] == "workflow"
        assert trace["spans"][0]["duration_us"] is None
        service.model.release.set()
        await waiting


async def test_the_trace_is_the_span_tree(stored_service: Service) -> None:
    answer = await stored_service.start()
    path = f"/v1/executions/{answer.json()['execution_id']}/trace"
    trace = (await stored_service.client.get(path)).json()
    assert [(span["depth"], span["name"]) for span in trace["spans"]] == [
        (0, "invoke_workflow ask"),
        (1, "execute_node start"),
        (1, "execute_node ask"),
        (2, "chat scripted-1"),
        (1, "execute_node end"),
    ]
    assert trace["attempts"][0]["trace_id"] == answer.json()["metadata"]["trace_id"]
    first = await stored_service.client.get(path, params={"limit": 2})
    rest = await stored_service.client.get(path, params={"cursor": first.json()["next_cursor"]})
    assert [*first.json()["spans"], *rest.json()["spans"]] == trace["spans"]


async def test_the_list_pages_through_all_newest_first(stored_service: Service) -> None:
    ids = [(await stored_service.start()).json()["execution_id"] for _ in range(5)]
    seen: list[str] = []
    path = "/v1/executions?limit=2"
    while path:
        page = await stored_service.client.get(path)
        seen += [item["id"] for item in page.json()["items"]]
        path = page.links["next"]["url"] if "next" in page.links else ""
        assert bool(path) == (page.json()["next_cursor"] is not None)
    assert seen == ids[::-1]
    oldest = (await stored_service.client.get("/v1/executions?order=oldest")).json()
    assert [item["id"] for item in oldest["items"]] == ids


async def test_filters_say_which_executions(migrated_url: str) -> None:
    async with running(migrated_url, [Say("a"), Fail("auth")]) as service:
        good = (await service.start()).json()["execution_id"]
        bad = (
            await service.client.post("/v1/executions", json=request(), headers={"x-correlation-id": "job-7"})
        ).json()
        for query, expected in {
            "status=completed": [good],
            "status=failed&status=cancelled": [bad["execution_id"]],
            "error_type=auth": [bad["execution_id"]],
            "correlation_id=job-7": [bad["execution_id"]],
            f"trace_id={bad['metadata']['trace_id']}": [bad["execution_id"]],
            "source=template": [],
            "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00%2B02:00": [],
            "unpriced=true": [good],
            "duration_ms_min=0&cost_nano_usd_min=1": [],
        }.items():
            page = (await service.client.get(f"/v1/executions?{query}")).json()
            assert [item["id"] for item in page["items"]] == expected, query


@pytest.mark.parametrize("change", ["&status=failed", "&order=oldest"])
async def test_a_cursor_is_for_its_own_filters(service: Service, change: str) -> None:
    await service.start()
    await service.start()
    cursor = (await service.client.get("/v1/executions?limit=1")).json()["next_cursor"]
    for used in (f"cursor={cursor}{change}", f"cursor={cursor[:-3]}AAA", "cursor=%C3%A4", "cursor=W10"):
        answer = await service.client.get(f"/v1/executions?{used}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


async def test_the_cost_is_the_sum_over_executions(stored_service: Service) -> None:
    for _ in range(3):
        await stored_service.start()
    report = (await stored_service.client.get("/v1/analytics/cost?group_by=workflow&group_by=model")).json()
    assert [row["group"] for row in report["rows"]] == [
        {"workflow": "ask", "model": None},
        {"workflow": "ask", "model": "scripted-1"},
    ]
    assert (report["total"]["executions"], report["total"]["failure_rate"]) == (3, 0.0)
    assert (report["total"]["input_tokens"], report["total"]["unpriced_calls"]) == (36, 3)
    assert report["total"]["cost_nano_usd"] is None
    nothing = (await stored_service.client.get("/v1/analytics/cost?to=2021-01-01T00:00:00Z")).json()
    assert (nothing["total"]["executions"], nothing["total"]["failure_rate"]) == (0, None)


async def test_a_busy_conversation_is_refused(migrated_url: str) -> None:
    chat: JsonObject = {"source": {"kind": "chat"}, "input": {"message": "hi"}}
    async with running(migrated_url, [Say("first"), Hold()]) as service:
        first = await service.client.post("/v1/executions", json=chat)
        conversation: Json = first.json()["metadata"]["conversation_id"]
        chat["source"] = {"kind": "chat", "conversation_id": conversation}
        service.model.entered.clear()
        waiting = asyncio.create_task(service.client.post("/v1/executions", json=chat))
        await service.model.entered.wait()
        refused = await service.client.post("/v1/executions", json=chat)
        assert (refused.status_code, refused.json()["code"]) == (409, "conversation_busy")
        service.model.release.set()
        assert (await waiting).json()["status"] == "completed"


async def test_an_invalid_graph_is_a_failed_execution(service: Service) -> None:
    loose: JsonObject = {**ASK, "edges": [{"source": "start", "target": "nowhere"}]}
    answer = await service.client.post("/v1/executions", json={"source": {"kind": "graph", "graph": loose}})
    assert (answer.status_code, answer.json()["error_type"]) == (200, "invalid_workflow")


async def test_a_document_without_the_shape_of_a_graph_is_refused_with_a_report(service: Service) -> None:
    answer = await service.client.post("/v1/executions", json={"source": {"kind": "graph", "graph": {"nodes": 5}}})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_workflow")
    assert not problem["report"]["valid"]
    assert (await service.client.get("/v1/executions")).json()["items"] == []


BROKEN: JsonObject = {
    "kind": "graph",
    "graph": {
        "schema": "spanloom/1",
        "name": "broken",
        "nodes": [
            {"id": "start", "type": "start"},
            {"id": "lost", "type": "model"},
            {"id": "forgotten", "type": "model"},
            {"id": "end", "type": "end"},
        ],
        "edges": [{"source": "start", "target": "end"}, {"source": "lost", "target": "nowhere"}],
    },
}
"""A graph with several errors of structure."""


async def test_an_invalid_graph_answers_with_its_whole_report(stored_service: Service) -> None:
    client = stored_service.client
    result = (await stored_service.start(source=BROKEN)).json()
    assert (result["status"], result["error_type"]) == ("failed", "invalid_workflow")
    errors = [issue for issue in result["report"]["issues"] if issue["severity"] == "error"]
    assert len(errors) == result["report"]["counts"]["error"] > 1
    found = (await client.get(f"/v1/executions/{result['execution_id']}")).json()
    assert found["result"]["report"] == result["report"]
    async with client.stream("POST", "/v1/executions", json=request(source=BROKEN, mode="stream")) as response:
        frames = [frame async for frame in read_frames(response)]
    assert frames[-1].event == "failed"
    assert frames[-1].data["data"]["report"] == result["report"]  # type: ignore[index,call-overload]  # a document


async def test_faults_of_callers_are_told_from_others(migrated_url: str) -> None:
    async with running(migrated_url, [Fail("auth"), Say("Hello")]) as service:
        broken = (await service.start(source=BROKEN)).json()
        refused = (await service.start()).json()
        assert (broken["error_class"], refused["error_class"]) == ("caller", "provider")
        listed = (await service.client.get("/v1/executions?error_class=caller")).json()["items"]
        assert [(one["id"], one["error_class"]) for one in listed] == [(broken["execution_id"], "caller")]
        metrics = (await service.client.get("/metrics")).text
        assert 'spanloom_executions_total{error_class="caller",status="failed",template="broken"} 1.0' in metrics
        assert 'spanloom_executions_total{status="failed",template="ask"} 1.0' in metrics
        assert 'workflow_error_class="caller"' in metrics
        assert await check_books(service.runtime.database) == []
        await service.start()
        total = (await service.client.get("/v1/analytics/cost")).json()["total"]
        assert (total["executions_completed"], total["executions_failed"], total["failed_by_caller"]) == (1, 2, 1)
        assert total["failure_rate"] == 0.5
        wrong = await service.client.get("/v1/executions?error_class=nobody")
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")

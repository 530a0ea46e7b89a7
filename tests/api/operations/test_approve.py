"""An approval from end to end: asked over HTTP, answered over HTTP, gone on with by a worker."""

import pytest

from engine.graph import JsonObject
from engine.testing.models import Say
from tests.api.harness import Service, read_frames, running

REVIEW: JsonObject = {
    "schema": "spanloom/1",
    "name": "review",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "write", "type": "model"},
        {
            "id": "ask",
            "type": "approval",
            "config": {"prompt": "Good? {{ outputs.write.text }}", "response_schema": {"type": "object"}},
        },
        {"id": "more", "type": "model", "config": {"prompt": "Say more."}},
        {"id": "end", "type": "end"},
    ],
    "edges": [
        {"source": "start", "target": "write"},
        {"source": "write", "target": "ask"},
        {"source": "ask", "target": "more", "when": "approved"},
        {"source": "ask", "target": "end", "when": "rejected"},
        {"source": "more", "target": "end"},
    ],
}


async def events_of(service: Service, execution_id: str, after: str | None = None) -> list[tuple[str, str]]:
    headers = {} if after is None else {"last-event-id": after}
    path = f"/v1/executions/{execution_id}/events"
    async with service.client.stream("GET", path, headers=headers) as response:
        return [(frame.id, frame.event) async for frame in read_frames(response)]


@pytest.mark.parametrize(("choice", "calls"), [("approved", 2), ("rejected", 1)])
async def test_an_execution_asks_and_goes_on_with_the_answer(migrated_url: str, choice: str, calls: int) -> None:
    body: JsonObject = {"source": {"kind": "graph", "graph": REVIEW}, "input": {"message": "write"}}
    async with running(migrated_url, [Say("a text")]) as service:
        paused = (await service.client.post("/v1/executions", json=body)).json()
        execution_id = paused["execution_id"]
        [question] = paused["approvals"]
        assert (paused["status"], question["prompt"]) == ("paused", "Good? a text")
        told = await events_of(service, execution_id)
        assert told[-1][1] == "paused"
        shown = (await service.client.get(f"/v1/executions/{execution_id}")).json()
        assert (shown["status"], shown["approvals"], shown["result"]) == ("paused", [question], paused)
    async with running(migrated_url, [Say("and more")]) as restarted:
        answer: JsonObject = {"approval_id": question["approval_id"], "choice": choice, "data": {"score": 1}}
        path = f"/v1/executions/{execution_id}"
        assert (await restarted.client.post(f"{path}/resume", json=answer)).status_code == 202
        rest = await events_of(restarted, execution_id, told[-1][0])
        assert (rest[0], rest[-1][1]) == (("2-1", "resumed"), "completed")
        ended = (await restarted.client.get(path)).json()
        assert (ended["status"], ended["attempt"], ended["model_calls"]) == ("completed", 2, calls)
        assert ended["seal"]["complete"]

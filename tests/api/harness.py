"""The service as its users meet it: uvicorn on loopback, over a database, with models that follow a script."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import uvicorn

from api.schemas.executions import Execution
from api.service.background import run_worker
from api.service.server import listen, make_server, url_of
from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.graph import Json, JsonObject
from engine.testing.models import Say, Script, ScriptedModel, ScriptedModels

ASK: JsonObject = {
    "schema": "spanloom/1",
    "name": "ask",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "ask", "type": "model", "stream": True},
        {"id": "end", "type": "end"},
    ],
    "edges": [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}],
}
"""One streamed question to the default model."""


def request(**more: Json) -> JsonObject:
    """A request that runs `ASK`."""
    return {"source": {"kind": "graph", "graph": ASK}, "input": {"message": "hi"}, **more}


UNKNOWN_ID = "0190c8e0-7a3b-7000-8000-000000000000"
"""An id that nothing has."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream, as httpx2 reads it."""

    event: str
    data: JsonObject
    id: str


@dataclass(slots=True)
class Service:
    """A service that runs."""

    runtime: Runtime
    model: ScriptedModel
    client: httpx2.AsyncClient
    server: uvicorn.Server
    serving: "asyncio.Task[None]"

    async def start(self, query: str = "", **more: Json) -> httpx2.Response:
        """Run `ASK`."""
        return await self.client.post(f"/v1/executions{query}", json=request(**more))

    async def frames(self, **more: Json) -> list[Frame]:
        """Every frame of a streamed `ASK`, to the end."""
        async with self.client.stream("POST", "/v1/executions", json=request(mode="stream", **more)) as response:
            assert response.status_code == 200, await response.aread()
            return [frame async for frame in read_frames(response)]

    async def ended(self, execution_id: str) -> Execution:
        """The execution, once it has ended."""
        running = self.runtime.engine.running(execution_id)
        if running is not None:
            await running.result()
        found = await self.client.get(f"/v1/executions/{execution_id}")
        assert found.status_code == 200
        return Execution.model_validate_json(found.content)

    async def running_id(self) -> str:
        """The id of the one execution whose model has been asked."""
        await self.model.entered.wait()
        page = (await self.client.get("/v1/executions", params={"status": "running"})).json()
        [execution] = page["items"]
        return str(execution["id"])


async def read_frames(response: httpx2.Response) -> AsyncIterator[Frame]:
    """Frames by httpx2's reader of server-sent events, which also shows the one that holds only `retry`."""
    async for event in httpx2.EventSource(response):
        if not event.data:
            assert event.retry == 2_000
            continue
        data = event.json()
        assert isinstance(data, dict)
        yield Frame(event.event, data, event.id)


async def ended(service: Service, execution_id: str) -> JsonObject:
    """The execution once a worker has run it: its events are followed to the closing one."""
    async with service.client.stream("GET", f"/v1/executions/{execution_id}/events") as response:
        if response.status_code == 200:
            _ = [frame async for frame in read_frames(response)]
    found: JsonObject = (await service.client.get(f"/v1/executions/{execution_id}")).json()
    return found


def client_of(url: str) -> httpx2.AsyncClient:
    """A client whose requests say JSON even without a body, which every POST must."""
    headers = {"Content-Type": "application/json"}
    return httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30)


@asynccontextmanager
async def running(database_url: str, script: Script | None = None, **settings: object) -> AsyncIterator[Service]:
    """A service over the database, with a worker; without a script its model says hello each time."""
    async with front(database_url, script, **settings) as service, run_worker(service.runtime):
        yield service


@asynccontextmanager
async def front(database_url: str, script: Script | None = None, **settings: object) -> AsyncIterator[Service]:
    """The same without a worker: what is queued stays queued."""
    given = {"database_url": database_url, "disconnect_seconds": 0.0, "drain_seconds": 5.0} | settings
    model = ScriptedModel((lambda _: Say("Hello you there")) if script is None else script)
    async with open_runtime(Settings.model_validate(given), models=ScriptedModels(model)) as runtime:
        with listen("127.0.0.1", 0) as listener:
            started = asyncio.Event()
            server = make_server(runtime, listener, lambda _: started.set())
            serving = asyncio.create_task(server.serve([listener]), name="service")
            await started.wait()
            async with client_of(url_of(listener)) as client:
                yield Service(runtime, model, client, server, serving)
            server.should_exit = True
            await serving

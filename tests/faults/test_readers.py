"""F15: streams are cut at random and readers never read: each execution goes on, and who comes back misses nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx2
import pytest

from engine.graph import JsonObject
from tests.faults.clients import ASK, Frame, frames_of
from tests.faults.figures import Figure, Figures, on, short_or_long
from tests.faults.provider import Answer, Latency
from tests.faults.proxy import Proxy, proxy
from tests.faults.world import World, world

STREAMS = short_or_long(30, 200)
AT_ONCE = 20
CUTS = 0.02
LEAST_CUTS = STREAMS // 2
SILENT = short_or_long(10, 50)
"""Readers that never read."""

WORDS = 60
TEXT = "".join(f"word{number} " for number in range(WORDS))
PATIENCE = 200
MOST_SLOWER = short_or_long(0.5, 0.05)
"""Of the others, beside readers that never read; on a busy machine more is noise."""

TIMED = short_or_long(20, 200)


@dataclass(slots=True)
class Followed:
    """What one client has put together over all its connections."""

    execution_id: str | None = None
    frames: list[Frame] = field(default_factory=list)
    comebacks: int = 0

    @property
    def last_id(self) -> str:
        """Of the last event that has arrived."""
        return self.frames[-1].id if self.frames else "0-0"

    @property
    def is_over(self) -> bool:
        """The closing frame was seen."""
        return bool(self.frames) and self.frames[-1].event in ("completed", "failed", "cancelled")

    @property
    def text(self) -> str:
        """The tokens put together."""
        return "".join(str(_data(frame)["text"]) for frame in self.frames if frame.event == "token")

    @property
    def is_gapless(self) -> bool:
        """Nothing is missing, nothing came twice, and the order is that of the numbers."""
        seqs = [int(frame.id.partition("-")[2]) for frame in self.frames]
        return self.text == TEXT and "gap" not in {frame.event for frame in self.frames} and seqs == sorted(set(seqs))


def _data(frame: Frame) -> JsonObject:
    data = frame.data["data"]
    assert isinstance(data, dict)
    return data


@pytest.mark.slow
@on("sqlite")
@pytest.mark.timeout(240)
async def test_a_stream_that_was_cut_goes_on_where_it_was(migrated_url: str, tmp_path: Path, figures: Figures) -> None:
    with figures("F15", cut=LEAST_CUTS, streams=STREAMS) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.1, word_seconds=0.03)
        async with world(migrated_url, tmp_path, figure, latency=latency) as around:
            around.models.answer = lambda asked: Answer(words=WORDS)
            async with proxy(around.server.url, figure.chance("cuts")) as between:
                between.cuts = CUTS
                gate = asyncio.Semaphore(AT_ONCE)

                async def one() -> Followed:
                    async with gate:
                        return await follow(between)

                followed = await asyncio.gather(*(one() for _ in range(STREAMS)))
                figure.hit("cut", between.hits["cut"])
            await around.settled()
            ends = await around.ends()
            figure.hit("streams", sum(one.is_over for one in followed))
            figure.size("comebacks", sum(one.comebacks for one in followed))
            figure.none(
                "wrong statuses", [one for one in followed if ends[str(one.execution_id)].status != "completed"]
            )
            figure.none("streams with a gap", [one.last_id for one in followed if not one.is_gapless])
            figure.none("violations", await around.violations())


async def follow(between: Proxy) -> Followed:
    """Start an execution and follow it to its end, however often the connection breaks."""
    followed = Followed()
    body: JsonObject = {
        "source": {"kind": "graph", "graph": ASK},
        "input": {"message": "hi"},
        "mode": "stream",
        "on_disconnect": "continue",
    }
    async with httpx2.AsyncClient(base_url=between.url, trust_env=False, timeout=60) as http:
        for _ in range(PATIENCE):
            if followed.is_over:
                break
            try:
                if followed.execution_id is None:
                    await read(http, "POST", "/v1/executions", followed, json=body)
                else:
                    followed.comebacks += 1
                    path, last = f"/v1/executions/{followed.execution_id}/events", followed.last_id
                    await read(http, "GET", path, followed, headers={"Last-Event-ID": last})
            except httpx2.TransportError:
                continue
    return followed


async def read(http: httpx2.AsyncClient, method: str, path: str, followed: Followed, **more: object) -> None:
    """Everything that comes over one connection."""
    async with http.stream(method, path, **more) as answer:  # type: ignore[arg-type]  # a body or headers
        assert answer.status_code == 200, await answer.aread()
        followed.execution_id = answer.headers["x-execution-id"]
        async for frame in frames_of(answer):
            followed.frames.append(frame)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_readers_that_never_read_slow_nobody_down(
    migrated_sqlite_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F15", readers_that_never_read=SILENT) as figure:
        latency = Latency(figure.chance("models"), word_seconds=0.01)
        async with world(migrated_sqlite_url, tmp_path, figure, latency=latency) as around:
            around.models.answer = lambda asked: Answer(words=WORDS)
            await timed(around)
            alone = await timed(around)
            async with silent_readers(around, figure):
                beside = await timed(around)
            figure.reach("share slower", beside / alone - 1, at_most=MOST_SLOWER)
            await around.settled()
            figure.none(
                "not completed", [id_ for id_, end in (await around.ends()).items() if end.status != "completed"]
            )
            figure.none("violations", await around.violations())


async def timed(around: World) -> float:
    """The median of the seconds that an execution takes its client."""
    seconds = []
    for _ in range(TIMED):
        began = time.perf_counter()
        told = await around.callers.start(streaming=True, source={"kind": "graph", "graph": ASK})
        assert told.status == "completed"
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@asynccontextmanager
async def silent_readers(around: World, figure: Figure) -> AsyncIterator[None]:
    """Clients that have asked for a stream and read no more than its headers."""
    body: JsonObject = {
        "source": {"kind": "graph", "graph": ASK},
        "input": {"message": "hi"},
        "mode": "stream",
        "on_disconnect": "continue",
    }
    async with AsyncExitStack() as stack:
        for _ in range(SILENT):
            answer = await stack.enter_async_context(around.callers.http.stream("POST", "/v1/executions", json=body))
            assert answer.status_code == 200
            figure.hit("readers that never read")
        yield

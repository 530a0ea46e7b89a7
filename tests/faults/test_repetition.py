"""F3: clients repeat their requests, and their connections are cut: each key is one execution."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx2
import pytest

from engine.graph import JsonObject
from tests.faults.clients import SOURCES
from tests.faults.figures import Figures, on, short_or_long
from tests.faults.provider import Latency
from tests.faults.proxy import Proxy, proxy
from tests.faults.world import World, world

KEYS = short_or_long(30, 500)
POSTS = 3
AT_ONCE = 32
CUTS = 0.05
LEAST_CUTS = KEYS // 20
MODES = ("wait", "stream", "async")
PATIENCE = 50
"""So often a request is repeated until it is answered."""


@dataclass(slots=True)
class Answers:
    """What the clients were told."""

    ids: dict[str, set[str]] = field(default_factory=dict)
    """Executions by key: one each."""
    others: Counter[str] = field(default_factory=Counter)
    """Answers to another body under a key that is taken."""
    given_up: int = 0


@pytest.mark.slow
@on("sqlite")
@pytest.mark.timeout(240)
async def test_a_key_is_one_execution_however_often_it_is_sent(
    migrated_url: str, tmp_path: Path, figures: Figures
) -> None:
    with figures("F3", posts=KEYS * POSTS, other_bodies=KEYS, cut=LEAST_CUTS) as figure:
        latency = Latency(figure.chance("models"), first_seconds=0.1, word_seconds=0.02)
        async with world(migrated_url, tmp_path, figure, latency=latency) as around:
            async with proxy(around.server.url, figure.chance("cuts")) as between:
                between.cuts = CUTS
                answers = Answers()
                gate = asyncio.Semaphore(AT_ONCE)

                async def one(number: int) -> None:
                    async with gate:
                        await repeat(between, number, answers, figure.chance(f"{number}"))

                await asyncio.gather(*map(one, range(KEYS)))
                figure.hit("cut", between.hits["cut"])
            figure.hit("posts", KEYS * POSTS - answers.given_up)
            figure.hit("other bodies", answers.others["422 idempotency_mismatch"])
            await around.settled()
            await look(around, answers)
            figure.none("keys with several executions", [key for key, ids in answers.ids.items() if len(ids) != 1])
            figure.reach("executions", len(await around.ends()), at_least=KEYS, at_most=KEYS)
            figure.none("violations", await around.violations())


async def look(around: World, answers: Answers) -> None:
    """Every answer named an execution that there is."""
    known = (await around.ends()).keys()
    assert {id_ for ids in answers.ids.values() for id_ in ids} <= known


async def repeat(between: Proxy, number: int, answers: Answers, chance: Random) -> None:
    """The same request several times at once, each in a mode of its own; then another one under the same key."""
    key = f"key-{number}"
    body: JsonObject = {"source": SOURCES[number % len(SOURCES)], "input": {"message": f"run {number}"}}
    posts = [{**body, "mode": chance.choice(MODES)} for _ in range(POSTS)]
    for code, id_ in await asyncio.gather(*(insist(between, key, post) for post in posts)):
        answers.given_up += code is None
        if id_ is not None:
            answers.ids.setdefault(key, set()).add(id_)
    code, _ = await insist(between, key, {**body, "input": {"message": "something else"}})
    answers.others[str(code)] += 1


async def insist(between: Proxy, key: str, body: JsonObject) -> tuple[str | None, str | None]:
    """Until it is answered: status and code of the problem, and the execution that the answer is about."""
    async with httpx2.AsyncClient(base_url=between.url, trust_env=False, timeout=60) as http:
        for _ in range(PATIENCE):
            try:
                answer = await http.post("/v1/executions", json=body, headers={"Idempotency-Key": key})
            except httpx2.TransportError:
                continue
            code = json.loads(answer.content)["code"] if answer.status_code >= 400 else ""
            if code not in ("draining", "unavailable"):
                return f"{answer.status_code} {code}".strip(), answer.headers.get("x-execution-id")
    return None, None

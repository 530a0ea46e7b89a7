"""`spanloom webhooks`: the same as the routes, from a shell."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import pytest

from engine.graph import JsonObject
from tests.api.cli.shell import Shell
from tests.telemetry.receiver import Receiver, Reply, receiving


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> JsonObject:
        """What it printed as JSON."""
        read: JsonObject = json.loads(self.out)
        return read


@dataclass(frozen=True, slots=True)
class Webhooks:
    """A shell from which a receiver may be reached."""

    shell: Shell
    receiver: Receiver

    async def run(self, *arguments: str) -> Said:
        """`spanloom webhooks` with these arguments, one command after another: they share this process's streams."""
        allowed = self.receiver.url.removeprefix("http://")
        command = partial(self.shell.run, "webhooks", *arguments, SPANLOOM_EGRESS_ALLOW=allowed, NO_COLOR="1")
        done = await asyncio.to_thread(command)
        return Said(done.returncode, done.stdout, done.stderr)

    async def add(self) -> str:
        """An endpoint at the receiver; its id."""
        said = await self.run("add", f"{self.receiver.url}/a", "--event", "workflow.execution.failed", "--json")
        assert said.code == 0, said.err
        self.receiver.secrets["/a"] = str(said.document["secret"])
        return str(said.document["id"])


@pytest.fixture
async def webhooks(shell: Shell) -> AsyncIterator[Webhooks]:
    """A shell and a receiver."""
    async with receiving() as receiver:
        yield Webhooks(shell, receiver)


async def test_an_endpoint_is_added_tested_and_listed(webhooks: Webhooks) -> None:
    id_ = await webhooks.add()
    tested = await webhooks.run("test", id_[:18])
    assert tested.code == 0, tested.err
    assert tested.out.startswith("Delivered: status 204 after ")
    assert webhooks.receiver.accepted[0].document["type"] == "webhook.test"
    listed = await webhooks.run("list")
    assert webhooks.receiver.url in listed.out
    assert "active" in listed.out
    deliveries = await webhooks.run("deliveries", "--json")
    items = cast("list[JsonObject]", deliveries.document["items"])
    again = await webhooks.run("redeliver", str(items[0]["id"]), "--json")
    assert (again.code, again.document) == (0, {"deliveries": 1})


async def test_a_test_event_that_is_not_delivered_is_bad_news(webhooks: Webhooks) -> None:
    id_ = await webhooks.add()
    webhooks.receiver.answer = lambda call: Reply(500)
    tested = await webhooks.run("test", id_)
    assert (tested.code, tested.out) == (1, "Not delivered: status 500.\n")


async def test_a_secret_is_rotated_and_an_endpoint_disabled_and_enabled(webhooks: Webhooks) -> None:
    id_ = await webhooks.add()
    rotated = await webhooks.run("rotate", id_, "--overlap-hours", "0", "--json")
    webhooks.receiver.secrets["/a"] = str(rotated.document["secret"])
    assert (await webhooks.run("test", id_)).code == 0
    assert (await webhooks.run("disable", id_)).code == 0
    refused = await webhooks.run("test", id_)
    assert (refused.code, refused.err) == (4, "spanloom: The endpoint is disabled; enable it first.\n")
    assert (await webhooks.run("enable", id_)).code == 0
    ranged = await webhooks.run("redeliver", id_, "--from", "2026-01-01", "--to", "2100-01-01", "--json")
    assert ranged.document == {"deliveries": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("add", "https://169.254.169.254/"), 4, "a cloud's metadata service"),
        (("add", "http://hooks.example/"), 4, "use https"),
        (("add", "https://hooks.example/", "--event", "x"), 2, "Unknown event 'x'. Valid events: workflow."),
        (("add", "https://hooks.example/", "--header", "X-A"), 2, "NAME=VALUE"),
        (("add", "https://hooks.example/", "--header", "webhook-id=canary"), 2, "headers.webhook-id"),
        (("list",), 3, "There is no database"),
        (("deliveries", "--state", "lost"), 2, "Unknown state 'lost'. Valid states: pending, delivered, failed."),
    ],
)
async def test_a_refusal_says_the_reason_and_no_secret(
    webhooks: Webhooks, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    said = await webhooks.run(*arguments)
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err
    assert "canary" not in said.err


async def test_an_unknown_id_names_the_command_that_lists_ids(webhooks: Webhooks) -> None:
    await webhooks.add()
    for command in ("test", "rotate", "disable"):
        said = await webhooks.run(command, "nonsense")
        assert said.code == 4
        assert "There is no endpoint 'nonsense'. List the endpoints: spanloom webhooks list" in said.err
    said = await webhooks.run("redeliver", "nonsense")
    assert "There is no delivery 'nonsense'" in said.err

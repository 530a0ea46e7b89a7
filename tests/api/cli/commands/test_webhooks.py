"""`spanloom webhooks`: the same as the routes, from a shell."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from engine.graph import JsonObject
from tests.telemetry.receiver import Receiver, Reply, receiving

_SPANLOOM = "from api.cli.main import main; main()"


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
class Shell:
    """A shell with a database of its own, from which a receiver may be reached."""

    folder: Path
    receiver: Receiver

    async def run(self, *arguments: str) -> Said:
        """`spanloom webhooks` with these arguments."""
        environment = os.environ | {
            "SPANLOOM_DATABASE_URL": f"sqlite:///{self.folder}/spanloom.db",
            "SPANLOOM_EGRESS_ALLOW": self.receiver.url.removeprefix("http://"),
            "NO_COLOR": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _SPANLOOM,
            "webhooks",
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Said(process.returncode, out.decode(), err.decode())

    async def add(self) -> str:
        """An endpoint at the receiver; its id."""
        said = await self.run("add", f"{self.receiver.url}/a", "--event", "workflow.execution.failed", "--json")
        assert said.code == 0, said.err
        self.receiver.secrets["/a"] = str(said.document["secret"])
        return str(said.document["id"])


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """A shell and a receiver."""
    async with receiving() as receiver:
        yield Shell(tmp_path, receiver)


async def test_an_endpoint_is_added_tested_and_listed(shell: Shell) -> None:
    id_ = await shell.add()
    tested = await shell.run("test", id_[:18])
    assert tested.code == 0, tested.err
    assert tested.out.startswith("Delivered: status 204 after ")
    assert shell.receiver.accepted[0].document["type"] == "webhook.test"
    listed = await shell.run("list")
    assert shell.receiver.url in listed.out
    assert "active" in listed.out
    deliveries = await shell.run("deliveries", "--json")
    items = cast("list[JsonObject]", deliveries.document["items"])
    again = await shell.run("redeliver", str(items[0]["id"]), "--json")
    assert (again.code, again.document) == (0, {"deliveries": 1})


async def test_a_test_event_that_is_not_delivered_is_bad_news(shell: Shell) -> None:
    id_ = await shell.add()
    shell.receiver.answer = lambda call: Reply(500)
    tested = await shell.run("test", id_)
    assert (tested.code, tested.out) == (1, "Not delivered: status 500.\n")


async def test_a_secret_is_rotated_and_an_endpoint_disabled_and_enabled(shell: Shell) -> None:
    id_ = await shell.add()
    rotated = await shell.run("rotate", id_, "--overlap-hours", "0", "--json")
    shell.receiver.secrets["/a"] = str(rotated.document["secret"])
    assert (await shell.run("test", id_)).code == 0
    assert (await shell.run("disable", id_)).code == 0
    refused = await shell.run("test", id_)
    assert (refused.code, refused.err) == (4, "spanloom: The endpoint is disabled; enable it first.\n")
    assert (await shell.run("enable", id_)).code == 0
    ranged = await shell.run("redeliver", id_, "--from", "2026-01-01", "--to", "2100-01-01", "--json")
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
    shell: Shell, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    said = await shell.run(*arguments)
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err
    assert "canary" not in said.err


async def test_an_unknown_id_names_the_command_that_lists_ids(shell: Shell) -> None:
    await shell.add()
    for command in ("test", "rotate", "disable"):
        said = await shell.run(command, "nonsense")
        assert said.code == 4
        assert "There is no endpoint 'nonsense'. List the endpoints: spanloom webhooks list" in said.err
    said = await shell.run("redeliver", "nonsense")
    assert "There is no delivery 'nonsense'" in said.err

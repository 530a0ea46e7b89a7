"""Refused signals are all counted; few of them are kept, and never in the books."""

import os
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from engine.database.base import json_text
from engine.database.database import Database
from telemetry.collector.refusals import LETTERS_PER_HOUR, MAX_LETTER_BYTES, Reason, Refusals, Refused, body_letter
from telemetry.health import Health, OutboxHealth
from telemetry.pipeline.pipeline import Pipeline
from telemetry.records.consumer import Records
from telemetry.recovery.replay import Replay
from telemetry.signals.records import Signal
from telemetry.store.tables import dead_letter, executions
from tests.both_modes import count
from tests.telemetry.bookkeeper import Listener


def a_signal() -> Signal:
    listener = Listener()
    listener.complete(1)
    return listener.signals()[-1]


async def keep(database: Database, refusals: Refusals, refused: list[Refused]) -> None:
    """Keep and count them, as an intake does."""
    async with database.begin() as connection:
        await refusals.keep(connection, Pipeline([Records()]), "records", refused)
    refusals.count("records", refused)


async def letters(database: Database) -> list[Any]:
    async with database.read() as connection:
        return list((await connection.execute(select(dead_letter.c.signal).order_by(dead_letter.c.id))).scalars())


async def test_of_many_a_hundred_are_kept_within_an_hour_and_all_are_counted(database: Database) -> None:
    now, health = [0.0], OutboxHealth()
    refusals = Refusals(health, clock=lambda: now[0])
    refused = [Refused(Reason.NOT_OURS, a_signal())] * 60
    for _ in range(3):
        await keep(database, refusals, refused)
    assert (await count(database, dead_letter), refusals.room) == (LETTERS_PER_HOUR, 0)
    now[0] = 3_599.0
    assert refusals.room == 0
    now[0] = 3_600.0
    assert refusals.room == LETTERS_PER_HOUR
    await keep(database, refusals, refused)
    assert await count(database, dead_letter) == LETTERS_PER_HOUR + 60
    assert health.refused == {("records", "not_ours"): 240}


async def test_a_letter_is_no_larger_than_a_mebibyte(database: Database) -> None:
    signal = a_signal()
    large = replace(signal, name="\x01" * 500_000)
    body = os.urandom(4_000_000)
    refused = [
        Refused(Reason.NOT_OURS, signal),
        Refused(Reason.NOT_OURS, large),
        Refused(Reason.UNDECODABLE, body_letter(body, "gzip")),
    ]
    await keep(database, Refusals(OutboxHealth()), refused)
    whole, cut, of_body = await letters(database)
    assert max(len(json_text(letter)) for letter in (whole, cut, of_body)) <= MAX_LETTER_BYTES
    assert whole["signal"]["name"] == signal.name
    assert (cut["size"] > MAX_LETTER_BYTES, cut["is_cut"]) == (True, True)
    assert (of_body["size"], of_body["encoding"], of_body["is_cut"]) == (len(body), "gzip", True)
    assert body.startswith(b64decode(of_body["base64"]))
    assert len(of_body["base64"]) > MAX_LETTER_BYTES * 0.9


async def test_a_refused_signal_is_never_replayed(database: Database) -> None:
    await keep(database, Refusals(OutboxHealth()), [Refused(why, a_signal()) for why in Reason])
    replayed = await Replay(database, [Records()], Health()).try_all()
    assert (replayed.stored, replayed.kept) == (0, len(Reason))
    assert await count(database, executions) == 0


@pytest.mark.parametrize("body", [b"", b"x", bytes(1_000_000)])
def test_a_body_that_fits_is_kept_whole_or_says_that_it_is_cut(body: bytes) -> None:
    _, letter = body_letter(body, "identity")
    kept = b64decode(str(letter["base64"]))
    assert letter["is_cut"] is (len(kept) < len(body))
    assert body.startswith(kept)

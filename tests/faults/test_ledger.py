"""What a ledger says is on the disk; half a line was never said."""

import asyncio
from pathlib import Path

from tests.faults.ledger import Ledger


async def test_facts_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.write_now(what="first")
    await asyncio.gather(*(ledger.write(what="more", number=number) for number in range(100)))
    assert [fact["number"] for fact in ledger.of("more")] == list(range(100))
    assert len(ledger.facts()) == 101


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.write_now(what="whole")
    with ledger.file.open("a") as file:
        file.write('{"what": "ha')
    assert ledger.facts() == [{"what": "whole"}]


def test_a_ledger_nobody_wrote_in_is_empty(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger").facts() == []

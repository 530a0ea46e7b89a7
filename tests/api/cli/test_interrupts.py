"""Ctrl-C in `run`: first in order, then at once."""

import asyncio
import signal
import subprocess
import sys

import pytest

from api.cli import interrupts


def test_the_first_ctrl_c_cancels_the_work_and_waits_for_its_end() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            said.append("closed")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.run(work())
    assert (said, signal.getsignal(signal.SIGINT)) == (["closed"], before)


def test_the_second_ctrl_c_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)

    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        interrupts.run(work())
    assert codes == [130]


def test_ctrl_c_outside_of_work_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    before = signal.getsignal(signal.SIGINT)
    with interrupts.leaving():
        signal.raise_signal(signal.SIGINT)
    assert (codes, signal.getsignal(signal.SIGINT)) == ([130], before)


async def test_work_in_another_thread_runs_without_signals() -> None:
    async def work() -> str:
        return "done"

    assert await asyncio.to_thread(lambda: interrupts.run(work())) == "done"


STUBBORN = """
import asyncio, os, signal, threading, time
from api.cli import interrupts

async def stubborn():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(30)

async def work():
    kept.append(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)
    threading.Thread(target=press).start()
    await asyncio.Event().wait()

def press():
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)

kept = []
with interrupts.leaving():
    interrupts.run(work())
"""


def test_no_task_is_destroyed_at_the_second_ctrl_c() -> None:
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, timeout=60, check=False)
    assert "Task was destroyed" not in done.stderr  # as asyncio.run says here
    assert done.returncode == 130

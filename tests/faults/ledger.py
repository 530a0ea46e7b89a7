"""An append-only file of facts; a line is on disk before anything acts on it."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.graph import Json, JsonObject


@dataclass(slots=True)
class Ledger:
    """Lines of JSON, appended and fsynced. Lines that come while the disk is busy share its next turn."""

    file: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: "list[tuple[bytes, asyncio.Future[None]]]" = field(default_factory=list)
    _writing: "asyncio.Task[None] | None" = None

    def write_now(self, **fact: Json) -> None:
        """Append one fact; it is on disk when this returns."""
        self._append(_line(fact))

    async def write(self, **fact: Json) -> None:
        """Append one fact without blocking the event loop."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((_line(fact), done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._drain(), name=f"ledger {self.file.name}")
        await done

    def facts(self) -> list[JsonObject]:
        """All facts, in order. A last line that a kill cut off is left out, since nothing acted on it."""
        if not self.file.exists():
            return []
        return list(_read(self.file.read_bytes()))

    def of(self, what: str) -> list[JsonObject]:
        """The facts whose `what` is this."""
        return [fact for fact in self.facts() if fact["what"] == what]

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await asyncio.to_thread(self._append, b"".join(line for line, _ in batch))
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    def _append(self, lines: bytes) -> None:
        with self._lock:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, lines)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _line(fact: JsonObject) -> bytes:
    return json.dumps(fact).encode() + b"\n"


def _read(data: bytes) -> Iterator[JsonObject]:
    for line in data.split(b"\n")[:-1]:
        fact: JsonObject = json.loads(line)
        yield fact

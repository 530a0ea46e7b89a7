"""Free pages go back to the system."""

import asyncio
import sys
from pathlib import Path

import pytest

from api.service.memory import trim, trimming

MIB = 2**20
PIECES = 50_000
PIECE_BYTES = 2_000
"""Too large for Python's own allocator: glibc's heap holds them."""


def resident_mib() -> float:
    """What the process has of the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


def in_pieces() -> list[bytearray]:
    """What is left of a burst that was some 100 MiB: one object in a hundred, and free pages between them."""
    return [bytearray(PIECE_BYTES) for _ in range(PIECES)][::100]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives pages back when it is asked to")
def test_free_pages_between_what_is_in_use_go_back() -> None:
    left = in_pieces()
    before = resident_mib()
    assert trim()
    assert before - resident_mib() > 0.5 * PIECES * PIECE_BYTES / MIB
    assert len(left) == PIECES // 100


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives pages back when it is asked to")
async def test_a_service_gives_them_back_while_it_runs() -> None:
    left = in_pieces()
    before = resident_mib()
    async with trimming(every_seconds=0.01), asyncio.timeout(10):
        while True:
            if before - resident_mib() > 0.5 * PIECES * PIECE_BYTES / MIB:
                break
            await asyncio.sleep(0.05)
    assert len(left) == PIECES // 100

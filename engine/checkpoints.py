"""Where runs are kept so that they can go on: LangGraph's official savers, one thread for each attempt."""

from collections.abc import Iterable
from typing import Protocol


class Checkpoints(Protocol):
    """Keeps the snapshots of runs."""

    async def delete_thread(self, execution_id: str, attempts: Iterable[int]) -> None:
        """Forget an execution that has ended, with these attempts."""

"""The private and undocumented names of LangGraph that spanloom uses; no other module uses any.

pyproject.toml caps the minor versions, and `tests/engine/store/test_langgraph_private.py` lists the names, so that an
upgrade that changes one of them fails there first.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde import _msgpack
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.pregel import Pregel
from langgraph.pregel._write import ChannelWriteEntry

THREADS = "SELECT DISTINCT thread_id FROM checkpoints"
"""The threads in the tables of the savers, on both databases."""

App = TypeVar("App", bound=Pregel[Any, Any, Any, Any])


def write_to(channel: str, value_of: Callable[[Any], object]) -> ChannelWriteEntry:
    """Return a write of `value_of(node output)` to a channel; a null value is not written."""
    return ChannelWriteEntry(channel, skip_none=True, mapper=value_of)


def reads_strictly() -> bool:
    """Return whether LangGraph refuses to restore unknown types from checkpoints. It reads the setting on import."""
    return bool(_msgpack.STRICT_MSGPACK_ENABLED)


def leave_calling_graph() -> None:
    """Clear the configuration (checkpointer, callbacks) that a LangGraph application around this task has set."""
    var_child_runnable_config.set(None)


def with_checkpointer(app: App, saver: BaseCheckpointSaver[str]) -> App:
    """Return a copy of the application that writes checkpoints with this saver."""
    return app.copy({"checkpointer": saver})


def delete_older_in_memory(saver: InMemorySaver, thread_id: str) -> None:
    """Delete all checkpoints of a thread but the newest, and the channel values that only those used."""
    checkpoints = saver.storage[thread_id][""]
    for older in sorted(checkpoints)[:-1]:
        del checkpoints[older]
    versions = sorted(key for key in saver.blobs if key[0] == thread_id)
    newest = {key[2]: key for key in versions}
    for key in versions:
        if newest[key[2]] != key:
            del saver.blobs[key]


async def threads_in_sqlite(saver: AsyncSqliteSaver) -> list[str]:
    """Return the ids of all threads. Raises `sqlite3.Error`."""
    async with saver.lock, saver.conn.execute(THREADS) as rows:
        return [thread_id for (thread_id,) in await rows.fetchall()]


async def delete_older_in_sqlite(saver: AsyncSqliteSaver, thread_id: str) -> None:
    """Delete all checkpoints of a thread but the newest. Raises `sqlite3.Error`."""
    newest = "SELECT MAX(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
    statement = f"DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_id < ({newest})"
    async with saver.lock, saver.conn.execute(statement, (thread_id, thread_id)):
        await saver.conn.commit()

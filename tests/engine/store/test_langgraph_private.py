"""The private and undocumented names of LangGraph that spanloom uses: an upgrade that changes one fails here first."""

import inspect
from importlib.metadata import version

import aiosqlite
import langchain_core.runnables.config
import langgraph.checkpoint.serde._msgpack
import langgraph.pregel._write
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.pregel import Pregel

from engine.store import langgraph_private

CHANGED = "an upgrade changed it: adapt engine/store/langgraph_private.py"
CAPPED = {"langgraph": "1.2.", "langgraph-checkpoint": "4.3.", "langgraph-checkpoint-sqlite": "3.1."}


@pytest.mark.parametrize(("package", "minor"), CAPPED.items())
def test_the_private_names_of_the_installed_minor_are_known(package: str, minor: str) -> None:
    assert version(package).startswith(minor), CHANGED


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (langgraph.checkpoint.serde._msgpack, "STRICT_MSGPACK_ENABLED"),
        (langgraph.pregel._write, "ChannelWriteEntry"),
        (langchain_core.runnables.config, "var_child_runnable_config"),
        (Pregel, "copy"),
        (BaseCheckpointSaver, "aprune"),
        (InMemorySaver(), "storage"),
        (InMemorySaver(), "blobs"),
    ],
)
def test_a_private_name_is_still_there(owner: object, name: str) -> None:
    assert hasattr(owner, name), f"{name}: {CHANGED}"


def test_private_signatures_are_as_they_are_used() -> None:
    entry = inspect.signature(langgraph.pregel._write.ChannelWriteEntry).parameters
    assert {"channel", "skip_none", "mapper"} <= entry.keys(), CHANGED
    assert "update" in inspect.signature(Pregel.copy).parameters, CHANGED
    assert "strategy" in inspect.signature(BaseCheckpointSaver.aprune).parameters, CHANGED


async def test_the_tables_of_the_sqlite_saver_are_as_they_are_used() -> None:
    async with aiosqlite.connect(":memory:") as connection:
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        assert saver.conn is connection, CHANGED
        async with saver.lock, connection.execute("SELECT thread_id, checkpoint_id FROM checkpoints") as rows:
            assert await rows.fetchall() == [], CHANGED
        await langgraph_private.delete_older_in_sqlite(saver, "none")

"""The span tree of every built-in template, with each of its options, as a drawing."""

from pathlib import Path

import pytest

from engine.graph import JsonObject
from engine.testing.models import Call, Fail, Hold, Say, Step
from tests.engine.harness import graph
from tests.workflow_runner import drawing, request, workflow_runner

ANSWER = Say("In the north tower.")
CALCULATE = Call("calculate", {"expression": "6 * 7"})
SEARCH = Call("search_docs", {"query": "clock"})
NOT_FOUND = "The documents hold nothing about this question."

# Name of the case -> template, its parameters, what the model does, the tree.
DRAWINGS: dict[str, tuple[str, JsonObject, list[Step], str]] = {
    "universal_chat": (
        "universal_chat",
        {},
        [ANSWER],
        """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node memory
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "universal_chat without memory": (
        "universal_chat",
        {"enable_memory": False},
        [ANSWER],
        """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "universal_chat with retrieval": (
        "universal_chat",
        {"enable_retrieval": True, "path": "."},
        [ANSWER],
        """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node memory
  execute_node retrieval
    retrieval files
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "universal_chat with tools": (
        "universal_chat",
        {"enable_tools": True},
        [CALCULATE, ANSWER],
        """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node memory
  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "universal_chat with everything": (
        "universal_chat",
        {"enable_retrieval": True, "enable_tools": True, "path": "."},
        [CALCULATE, ANSWER],
        """
invoke_workflow universal_chat  completed
  execute_node start
  execute_node memory
  execute_node retrieval
    retrieval files
  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "rag_chat": (
        "rag_chat",
        {"path": "."},
        [ANSWER],
        """
invoke_workflow rag_chat  completed
  execute_node start
  execute_node memory
  execute_node retrieval
    retrieval files
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "tool_agent": (
        "tool_agent",
        {},
        [CALCULATE, ANSWER],
        """
invoke_workflow tool_agent  completed
  execute_node start
  execute_node memory
  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool calculate
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "tool_agent with documents": (
        "tool_agent",
        {"path": "."},
        [SEARCH, ANSWER],
        """
invoke_workflow tool_agent  completed
  execute_node start
  execute_node memory
  execute_node library
  execute_node answer
    chat scripted-1
  execute_node tools
    execute_tool search_docs
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "document_qa, found": (
        "document_qa",
        {"path": "."},
        [ANSWER],
        """
invoke_workflow document_qa  completed
  execute_node start
  execute_node retrieval
    retrieval files
  execute_node answer
    chat scripted-1
  execute_node end
""",
    ),
    "document_qa, nothing found": (
        "document_qa",
        {"path": "elsewhere.md"},
        [],
        """
invoke_workflow document_qa  completed
  execute_node start
  execute_node retrieval
    retrieval files
  execute_node not_found
""",
    ),
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Two small files."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "tower.md").write_text("# The tower\n\nThe clock hangs in the north tower.\n")
    (folder / "elsewhere.md").write_text("# Bread\n\nFlour, water and salt.\n")
    return folder


@pytest.mark.parametrize("name", list(DRAWINGS))
async def test_a_built_in_template_draws_its_tree(documents: Path, migrated_sqlite_url: str, name: str) -> None:
    template, params, script, tree = DRAWINGS[name]
    async with workflow_runner(migrated_sqlite_url, documents) as runner:
        engine = runner.engine(script)
        source = {"kind": "template", "template": template, "params": params}
        result = await engine.execute(request(source, "Where does the clock hang?"))
        assert drawing((await runner.trace(result.execution_id)).spans) == tree
    assert result.response == (ANSWER.text if script else NOT_FOUND)


async def test_a_long_conversation_is_summarised_by_a_model_call_of_its_own(migrated_sqlite_url: str) -> None:
    async with workflow_runner(migrated_sqlite_url) as runner:
        chat: JsonObject = {"kind": "chat", "params": {"memory_window": 2}}
        engine = runner.engine([Say("One."), Say("They counted."), Say("Two.")])
        first = await engine.execute(request(chat, "Count."))
        chat["conversation_id"] = first.metadata.conversation_id
        second = await engine.execute(request(chat, "Go on."))
        assert drawing((await runner.trace(second.execution_id)).spans) == LONG_CHAT


LONG_CHAT = """
invoke_workflow chat  completed
  execute_node start
  execute_node memory
    chat scripted-1
  execute_node answer
    chat scripted-1
  execute_node end
"""


SUMMARY = """
invoke_workflow tool_agent  completed
  chat scripted-1
  chat scripted-1
"""


@pytest.mark.parametrize("level", ["summary", "nodes", "full"])
async def test_the_record_level_decides_which_spans_are_stored(migrated_url: str, level: str) -> None:
    async with workflow_runner(migrated_url) as runner:
        source = {"kind": "template", "template": "tool_agent"}
        wanted = request(source, overrides={"record_level": level})
        result = await runner.engine([CALCULATE, ANSWER]).execute(wanted)
        trace = await runner.trace(result.execution_id)
    assert drawing(trace.spans) == (SUMMARY if level == "summary" else DRAWINGS["tool_agent"][3])
    assert trace.seal.complete
    assert any(span.attributes for span in trace.spans) is (level == "full")


FORK = graph(
    [
        {"id": "both", "type": "variable", "config": {"variable_name": "x", "value": 1}},
        {"id": "left", "type": "model", "retry": {"max_attempts": 1}, "config": {"append_to_messages": False}},
        {"id": "right", "type": "model", "retry": {"max_attempts": 1}, "config": {"append_to_messages": False}},
        {"id": "join", "type": "variable", "config": {"variable_name": "y", "value": 2}},
    ],
    ["start -> both", "both -> left", "both -> right", "left -> join", "right -> join", "join -> end"],
)


async def test_a_branch_that_fails_cuts_its_siblings_off_and_the_books_know(migrated_url: str) -> None:
    async with workflow_runner(migrated_url) as runner:
        await runner.store_definition("fork", FORK)
        result = await runner.engine([Hold(), Fail("auth")]).execute(
            request({"kind": "definition", "definition": "fork"})
        )
        record, trace = await runner.record(result.execution_id), await runner.trace(result.execution_id)
    assert drawing(trace.spans) == CUT_OFF
    assert (record.nodes_total, record.nodes_failed, record.unmetered_calls) == (4, 1, 1)


CUT_OFF = """
invoke_workflow fork  failed  auth
  execute_node start
  execute_node both
  execute_node left  cancelled
    chat scripted-1  cancelled
  execute_node right  failed  auth
    chat scripted-1  failed  auth
"""


def test_no_built_in_template_is_left_out() -> None:
    from engine.templates.template import load_builtin

    assert {template.key for template in load_builtin()} == {drawn[0] for drawn in DRAWINGS.values()}

"""Every emitted name is defined in `engine/tracing/semconv.py`, and is not spelled out anywhere else in the code."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan

from api.operations.approve import answer
from api.operations.retry import read_original
from api.schemas.decisions import ResumeBody
from engine.content.policy import Capture
from engine.engine import ExecutionEngine
from engine.graph import JsonObject
from engine.result import ExecutionResult, Status
from engine.store import approvals
from engine.testing.models import Call, Fail, Hold, Say, Step
from engine.tools.function import function_tool
from engine.tracing import semconv
from engine.usage import PART_FIELDS, CallUsage, Usage
from tests.engine.harness import graph
from tests.house.lock import ROOT
from tests.leases import end_leases
from tests.workflow_runner import OWNER, WorkflowRunner, request, streamed, workflow_runner

SPAN_NAMES = tuple(value for name, value in vars(semconv).items() if name.startswith("SPAN_"))
EXCEPTION = {"exception.type", "exception.message"}
"""OpenTelemetry's own names for an exception that a span records."""
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "int": int,
    "double": float,
    "boolean": bool,
    "string[]": (list, tuple),
}
NOT_FROM_HERE = {
    semconv.SANITIZED,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
    semconv.RESPONSE_FINGERPRINT,
    semconv.REQUEST_SERVICE_TIER,
    semconv.RESPONSE_SERVICE_TIER,
    semconv.SIGNAL_SIGNATURE,
    *semconv.PEER_KEYS,
    semconv.EVALUATION_NAME,
    semconv.EVALUATION_SCORE_VALUE,
    semconv.EVALUATION_SCORE_LABEL,
    semconv.SCORE_SOURCE,
}
"""What is said of values that were repaired and of scores, what needs a real provider, what is added on the way out."""
RETRY: JsonObject = {"max_attempts": 2, "initial_delay_seconds": 0}
EVERYTHING = graph(
    [
        {"id": "count", "type": "variable", "config": {"operation": "increment", "variable_name": "n", "value": 1}},
        {"id": "again", "type": "loop", "config": {"max_iterations": 1}},
        {"id": "which", "type": "conditional", "config": {"condition": "variables.n > 0"}},
        {"id": "memory", "type": "memory", "config": {"memory_window": 1}},
        {"id": "look", "type": "retrieval", "config": {"retriever": "files", "options": {"path": "."}}},
        {
            "id": "answer",
            "type": "model",
            "stream": True,
            "retry": RETRY,
            "config": {
                "temperature": 0.5,
                "top_p": 0.9,
                "frequency_penalty": 0.1,
                "presence_penalty": 0.1,
                "seed": 7,
                "stop": ["END"],
            },
        },
        {"id": "tools", "type": "tools", "config": {"allowed_tools": ["calculate", "broken"], "max_tool_calls": 1}},
        {
            "id": "last",
            "type": "model",
            "retry": {"max_attempts": 1},
            "on_error": {"policy": "continue"},
            "config": {"response_schema": {"type": "object"}},
        },
    ],
    [
        "start -> count",
        "count -> again",
        "again -continue-> which",
        "which -true-> memory",
        "which -false-> memory",
        "memory -> look",
        "look -found-> answer",
        "look -empty-> answer",
        "answer -tool_calls-> tools",
        "tools -> answer",
        "answer -final-> last",
        "last -> again",
        "again -exit-> end",
    ],
    variables={"n": 0},
    record_level="nodes",
)
RESCUED = graph(
    [
        {"id": "ask", "type": "model", "retry": {"max_attempts": 1}, "on_error": {"policy": "route"}},
        {"id": "rescue", "type": "error_handler", "config": {"retry_count": 1}},
        {"id": "wait", "type": "delay", "config": {"duration_seconds": 0}},
    ],
    [
        "start -> wait",
        "wait -> ask",
        "ask -> end",
        "ask -error-> rescue",
        "rescue -retry-> ask",
        "rescue -fallback-> end",
    ],
)
ASKED = graph(
    [
        {"id": "ask", "type": "approval", "config": {"prompt": "Go on?"}},
        {"id": "wait", "type": "delay", "config": {"duration_seconds": 3_600}},
    ],
    ["start -> ask", "ask -approved-> wait", "ask -rejected-> end", "wait -> end"],
)
RETRIED = graph([{"id": "answer", "type": "model"}], ["start -> answer", "answer -> end"], on_lost="retry")
ALL_TOKENS = CallUsage.of_counts(
    {
        **dict.fromkeys(PART_FIELDS, 1),
        "input_tokens": 50,
        "output_tokens": 9,
        "cache_read_tokens": 20,
        "cache_write_tokens": 10,
        "reasoning_tokens": 4,
    }
)


BILLED = Say(usage=ALL_TOKENS, service_tier="flex", provider_cost_nano_usd=1, unread_usage_keys=("key",))


def broken(text: str) -> str:
    """A tool that always fails."""
    raise RuntimeError("broken")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "tower.md").write_text("# The tower\n\nThe clock hangs in the north tower.\n")
    return folder


async def say_everything(runner: WorkflowRunner) -> None:
    """Run executions that together use every attribute and every event."""
    tools = [function_tool(broken, effect="read")]
    chat: JsonObject = {"kind": "chat", "params": {"enable_tools": True, "memory_window": 1}}
    engine = runner.engine([Say("Before."), Say("A summary."), replace(BILLED, text="After.")], tools)
    first = await engine.execute(request(chat, "clock"))
    chat["conversation_id"] = first.metadata.conversation_id
    await engine.execute(request(chat, "tower", tags={"team": "a"}))

    await runner.store_definition("everything", EVERYTHING)
    definition: JsonObject = {"kind": "definition", "definition": "everything"}
    budget: JsonObject = {"limits": {"budget_tokens": 2_000}}
    costly = runner.engine([Say("Long.", usage=Usage(input_tokens=1_900, output_tokens=9, total_tokens=1_909))])
    await costly.execute(request({"kind": "template", "template": "universal_chat"}, overrides=budget))

    script: list[Step] = [Fail("rate_limited"), Call("broken", {"text": "x"}), Call("calculate"), Fail("auth")]
    await runner.engine(script, tools).execute(request(definition, "clock"))
    budget = {"limits": {"budget_nano_usd": 1}}
    await runner.engine([], tools).execute(request(definition, "clock", overrides=budget))
    await runner.engine([Fail("auth")]).execute(request({"kind": "template", "template": "universal_chat"}))
    miscounted = Say("fine", usage=Usage(input_tokens=-1))
    unsaved: JsonObject = {"kind": "graph", "graph": RESCUED, "template": {"key": "rescued"}}
    await runner.engine([Fail("auth"), miscounted]).execute(request(unsaved))
    await broken_off(runner)
    await cancelled(runner)
    await waiting(runner)
    await lost(runner)


async def broken_off(runner: WorkflowRunner) -> None:
    """Run an execution whose answer breaks off after a report of its usage."""
    engine = runner.engine([Hold(Fail("auth"), after="Hel", usage=ALL_TOKENS)])
    engine.model.release.set()
    result = await streamed(engine, request({"kind": "chat"}))
    assert result.status is Status.FAILED


async def cancelled(runner: WorkflowRunner) -> None:
    engine = runner.engine([Hold()])
    execution = await engine.start(request({"kind": "chat"}), streaming=True)
    await engine.model.entered.wait()
    execution.cancel("enough")
    await execution.result()


async def waiting(runner: WorkflowRunner) -> None:
    """Run an execution that waits in the queue, then for an answer, then for a delay."""
    engine = runner.engine([])
    execution_id = await engine.enqueue(request({"kind": "graph", "graph": ASKED}))
    await go_on(runner, engine)
    async with runner.runtime.database.begin() as connection:
        [question] = await approvals.list_open(connection, execution_id)
        given = ResumeBody(approval_id=question.approval_id, choice="approved")
        await answer(connection, execution_id, OWNER, given, OWNER)
    assert (await go_on(runner, engine)).status is Status.PAUSED
    assert await runner.runtime.sweeper.cancel(execution_id, OWNER, "enough")


async def lost(runner: WorkflowRunner) -> None:
    """Run an execution that loses its process in a model call, is retried, and is run again after its end."""
    engine = runner.engine([Hold(), Say("Again."), Say("Anew.")])
    execution = await engine.start(request({"kind": "graph", "graph": RETRIED}), streaming=False)
    await engine.model.entered.wait()
    await end_leases(runner.runtime.database)
    await runner.runtime.sweeper.sweep()
    await go_on(runner, engine)
    async with runner.runtime.database.read() as connection:
        again = await read_original(connection, execution.id, OWNER)
    await engine.enqueue_again(again.identity, again.request, again.graph)
    assert (await go_on(runner, engine)).status is Status.COMPLETED


async def go_on(runner: WorkflowRunner, engine: ExecutionEngine) -> ExecutionResult:
    """Claim the only execution that waits for a process."""
    [claim] = await runner.runtime.journal.claim(1)
    return await (await engine.take_on(claim)).result()


@pytest.mark.parametrize("capture", [Capture.NO_CONTENT, Capture.SPAN_AND_EVENT])
async def test_everything_that_is_emitted_is_named_in_semconv(
    migrated_sqlite_url: str, documents: Path, monkeypatch: pytest.MonkeyPatch, capture: Capture
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture.value)
    left_out = {semconv.CONTENT_CUT} if capture.on_spans else semconv.CONTENT_KEYS
    async with workflow_runner(migrated_sqlite_url, documents) as runner:
        await say_everything(runner)
        spans, events = runner.emitted(), runner.log.get_finished_logs()

    said = [*map(attributes_of, spans), *map(attributes_of, events)]
    keys = {key for attributes in said for key in attributes}
    assert keys - semconv.ATTRIBUTES.keys() == set()
    assert semconv.ATTRIBUTES.keys() - keys - NOT_FROM_HERE == left_out, "named, but never emitted"
    for_stores = {semconv.CONTENT_EVENT, semconv.EXCEPTION_EVENT, semconv.FORMER_EXCEPTION_EVENT}
    of_executions = {event.value for event in semconv.Event if event is not semconv.Event.EVALUATION_RESULT}
    assert {event.log_record.event_name for event in events} - for_stores == of_executions
    assert {span.name.split(" ")[0] for span in spans} == set(SPAN_NAMES)
    on_spans = {key for span in spans for event in span.events for key in event.attributes or {}}
    assert on_spans - EXCEPTION - semconv.ATTRIBUTES.keys() == set()
    assert {event.name for span in spans for event in span.events} == {
        "exception",
        semconv.Event.CANCELLED.value,
        semconv.Event.PAUSED.value,
    }
    assert {span.instrumentation_scope.name for span in spans if span.instrumentation_scope} == {
        semconv.SCOPE_ENGINE,
        semconv.SCOPE_GENAI,
    }


async def test_every_value_has_the_type_that_semconv_says(migrated_sqlite_url: str, documents: Path) -> None:
    async with workflow_runner(migrated_sqlite_url, documents) as runner:
        await say_everything(runner)
        signals = [*map(attributes_of, runner.emitted()), *map(attributes_of, runner.log.get_finished_logs())]
    wrong = {
        (key, type(value).__name__)
        for attributes in signals
        for key, value in attributes.items()
        if not _fits(value, semconv.ATTRIBUTES[key].type)
    }
    assert wrong == set()


def _fits(value: object, type_: str) -> bool:
    return isinstance(value, TYPES[type_]) and (type_ == "boolean" or not isinstance(value, bool))


def attributes_of(signal: ReadableSpan | ReadableLogRecord) -> Mapping[str, object]:
    if isinstance(signal, ReadableSpan):
        return signal.attributes or {}
    return signal.log_record.attributes or {}


NAME = re.compile(r"(workflow|gen_ai|openinference)\.[a-z_.]*")


@pytest.mark.parametrize("package", ["engine", "telemetry", "api"])
def test_no_name_is_written_out_in_the_code(package: str) -> None:
    files = [file for file in sorted((ROOT / package).rglob("*.py")) if file.name != "semconv.py"]
    written = [(file.name, text) for file in files for text in literals(file.read_text()) if NAME.fullmatch(text)]
    assert written == []


@pytest.mark.parametrize("source", ["x = 'workflow.name'", "f(f'gen_ai.{kind}.tokens')", "d['gen_ai.usage.cost']"])
def test_a_name_in_the_code_is_seen(source: str) -> None:
    assert [text for text in literals(source) if NAME.fullmatch(text)] != []


def test_a_name_in_a_docstring_is_none() -> None:
    assert list(literals('def f():\n    """workflow.name"""\n')) == []


def literals(source: str) -> Iterator[str]:
    """Every string in the code, pieces of f-strings too; texts that stand alone (docstrings) are none."""
    tree = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value

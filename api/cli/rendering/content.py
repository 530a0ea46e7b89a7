"""What an execution was asked and answered, and what its calls said, for the terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from api.cli.rendering.plain import plain
from api.schemas.executions import Execution
from engine.documents.json_text import to_json
from engine.graph import Json, JsonObject
from engine.retention.call_content import StoredCall
from engine.tracing import semconv
from telemetry.reads.traces import Trace

_GONE = {
    "expired": "Input and answer are no longer stored: they have expired.",
    "forgotten": "Input and answer were forgotten.",
}
_FIELD = "{:<13}"
"""The title of a line as wide as those of the execution's other fields."""
_PART = "  {}  "
_NO_CALLS = "No content of calls is stored. SPANLOOM_CONTENT=full keeps that of executions that run from then on."
_TITLES = {
    semconv.SYSTEM_INSTRUCTIONS: "system",
    semconv.TOOL_ARGUMENTS: "arguments",
    semconv.TOOL_RESULT: "result",
    semconv.RETRIEVAL_QUERY: "query",
    semconv.RETRIEVED: "documents",
    semconv.TOOL_DEFINITIONS: "tools",
}


def content_view(execution: Execution) -> RenderableType:
    """Input and answer, or why they are not there; nothing for an execution that has none yet."""
    if execution.content in _GONE:
        return Text(_GONE[execution.content], style="dim")
    parts: list[RenderableType] = []
    if execution.input:
        message = execution.input.get("message")
        parts.append(_said(_FIELD.format("input"), message if len(execution.input) == 1 else execution.input))
    result = execution.result
    if result is not None and (answer := result.response or result.output) is not None:
        parts.append(_said(_FIELD.format("answer"), answer))
    return Group(*parts)


def calls_view(trace: Trace, calls: Sequence[StoredCall]) -> RenderableType:
    """What each call said and was told, in the order in which they ended."""
    if not calls:
        return Text(_NO_CALLS, style="dim")
    names = {span.span_id: span.name for span in trace.spans}
    return Group(*(part for call in calls for part in _call(names.get(call.call_id, call.operation), call)))


def _call(name: str, call: StoredCall) -> Iterator[Text]:
    yield Text(f"\n{plain(name)}  {plain(call.node_id)}", style="bold")
    for key, value in call.content.items():
        if key in (semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES):
            yield from _messages(value)
        else:
            yield _said(_PART.format(_TITLES.get(key, key)), value)
    if call.cut:
        yield Text(f"  cut: {', '.join(call.cut)}", style="dim")


def _messages(messages: Json) -> Iterator[Text]:
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and isinstance(parts := message.get("parts"), list):
            for part in parts:
                yield _said(_PART.format(message.get("role")), _of_part(part) if isinstance(part, dict) else part)


def _of_part(part: JsonObject) -> Json:
    match part.get("type"):
        case "text":
            return part.get("content")
        case "tool_call":
            return f"{part.get('name')} {_text(part.get('arguments'))}"
        case "tool_call_response":
            return part.get("response")
        case _:
            return part


def _said(title: str, value: Json) -> Text:
    """A title, and behind it the lines of a text, each made printable and, after the first, behind a bar.

    Without the bar a line of a stranger's text could pass for one of ours.
    """
    lines = [plain(line) for line in _text(value).splitlines()] or [""]
    bar = f"\n{' ' * (len(title) - 2)}│ "
    return Text.assemble((title, "dim"), bar.join(lines))


def _text(value: Json | Mapping[str, Json]) -> str:
    return value if isinstance(value, str) else to_json(value).decode()

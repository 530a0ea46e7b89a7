"""What other tools look for on our spans: Phoenix, MLflow, and people who search for a tag or an amount in dollars.

It repeats what our own attributes say under other names, and is added on the way to trace stores: no record holds it,
and where no trace store is set it costs nothing. Each name was seen to matter in the tool that reads it.
"""

from collections.abc import Mapping

import orjson
from opentelemetry.util.types import AnyValue

from engine.documents.json_text import to_json
from engine.request import MAX_TAGS
from engine.security.printable import one_line
from engine.tracing import semconv
from engine.tracing.semconv import Operation
from engine.usage import NANO_PER_USD
from telemetry.signals.records import Attributes
from telemetry.signals.sanitize import clean_text

CHAIN: Attributes = {semconv.OPENINFERENCE_KIND: "CHAIN"}
"""On executions, on nodes, and on the HTTP requests that start executions."""

_KINDS: Mapping[str, Attributes] = {
    Operation.RETRIEVAL.value: {semconv.OPENINFERENCE_KIND: "RETRIEVER"},
    Operation.TOOL.value: {semconv.OPENINFERENCE_KIND: "TOOL", semconv.MLFLOW_SPAN_TYPE: "TOOL"},
}
"""A model call has no kind: with `LLM`, MLflow would not see a chat model in it."""
_REASONING = semconv.CALL_TOKENS["reasoning_tokens"]


def added_to(attributes: Mapping[str, AnyValue]) -> Attributes:
    """What is added to a span of ours that has these attributes."""
    operation = attributes.get(semconv.OPERATION)
    if operation == Operation.CHAT.value:
        return _of_call(attributes)
    if operation == Operation.WORKFLOW.value:
        return CHAIN | _cost_in_usd(attributes) | about_caller(attributes)
    return _KINDS.get(operation, CHAIN) if isinstance(operation, str) else CHAIN


def about_caller(attributes: Mapping[str, AnyValue]) -> Attributes:
    """What a root span says of its caller: conversation, user and tags; for it, and for the outermost span above it."""
    found: Attributes = {}
    conversation, user = attributes.get(semconv.CONVERSATION_ID), attributes.get(semconv.USER_ID)
    if isinstance(conversation, str):
        found[semconv.SESSION_ID] = clean_text(conversation)[0]
    if isinstance(user, str):
        found[semconv.USER_ID] = clean_text(user)[0]
    tags = _tags(attributes.get(semconv.TAGS))
    if tags:
        found[semconv.METADATA] = to_json(tags).decode()
    for name, value in tags.items():
        found[semconv.TAG_PREFIX + name] = value
        if not name.startswith(semconv.MLFLOW_OWN_TAGS):
            found[semconv.MLFLOW_TAG_PREFIX + name] = value
    return found


def exception_of(error_type: AnyValue, message: AnyValue) -> Attributes:
    """The attributes of the event `exception` of a failed span that has none."""
    type_ = error_type if isinstance(error_type, str) else "error"
    text = {semconv.EXCEPTION_MESSAGE: clean_text(message)[0]} if isinstance(message, str) and message else {}
    return {semconv.EXCEPTION_TYPE: clean_text(type_)[0], **text}


def _of_call(attributes: Mapping[str, AnyValue]) -> Attributes:
    found: Attributes = {}
    reasoning = attributes.get(_REASONING)
    if isinstance(reasoning, int):
        found[semconv.LLM_REASONING_TOKENS] = reasoning
    total, of_input = attributes.get(semconv.COST_NANO_USD), attributes.get(semconv.INPUT_COST_NANO_USD)
    if isinstance(total, int):
        costs = {"total_cost": total / NANO_PER_USD}
        if isinstance(of_input, int):
            costs |= {"input_cost": of_input / NANO_PER_USD, "output_cost": (total - of_input) / NANO_PER_USD}
        found[semconv.MLFLOW_COST] = to_json(costs).decode()
    return found


def _cost_in_usd(attributes: Mapping[str, AnyValue]) -> Attributes:
    cost = attributes.get(semconv.COST_NANO_USD)
    return {semconv.COST_USD: cost / NANO_PER_USD} if isinstance(cost, int) else {}


def _tags(document: AnyValue) -> dict[str, str]:
    """The tags of a request, each fit to be an attribute: names are on one line, and none is empty."""
    try:
        tags = orjson.loads(document) if isinstance(document, str) else {}
    except orjson.JSONDecodeError:
        return {}
    named = [(one_line(clean_text(str(name))[0]), clean_text(str(value))[0]) for name, value in _first(tags)]
    return {name: value for name, value in named if name}


def _first(tags: object) -> list[tuple[object, object]]:
    return list(tags.items())[:MAX_TAGS] if isinstance(tags, dict) else []

"""Builds the attributes of spans and events: identity, usage, sums and seal, model request; and event ids."""

import hashlib
from collections.abc import Mapping
from typing import TypeVar
from uuid import NAMESPACE_URL

import orjson
from opentelemetry.trace import format_span_id
from opentelemetry.util.types import AttributeValue
from uuid_utils.compat import uuid5

from engine.content.policy import Capture
from engine.documents.json_text import to_json
from engine.graph import JsonObject
from engine.identity import ExecutionIdentity
from engine.resources import ChatModel, ModelRequest
from engine.security.printable import one_line
from engine.security.redaction import redact, redact_json
from engine.tracing import semconv
from engine.tracing.semconv import Operation
from engine.usage import Totals, Unfinished, Usage

Attributes = dict[str, AttributeValue]
V = TypeVar("V")

SHUTDOWN_ERROR = "shutdown"
"""`error.type` of the root span of an attempt whose process stopped before the execution ended."""

LOST_ERROR = "engine_lost"
"""`error.type` of an attempt whose process died, and of its execution if no other process takes it over."""

OPENAI = "openai"
"""The provider, and every server that speaks its protocol: some of its parameters have names in the conventions."""
EVENT_NAMESPACE = uuid5(NAMESPACE_URL, "urn:spanloom:event")


def sums(totals: Totals, unfinished: Unfinished, span_ids: list[int], duration_seconds: float) -> Attributes:
    """Usage, cost, counts and seal for the root span and the terminal event; the time ledger is added elsewhere."""
    attributes: Attributes = {
        semconv.DURATION_MS: round(duration_seconds * 1000),
        semconv.UNPRICED_CALLS: totals.unpriced_calls,
        semconv.UNMETERED_CALLS: totals.unmetered_calls,
        semconv.FAILED_CALLS: totals.failed_calls,
        semconv.ASSUMED_CALLS: totals.assumed_calls,
        semconv.WASTE_NANO_USD: totals.waste_nano_usd,
        semconv.MODEL_CALLS: totals.model_calls,
        semconv.TOOL_CALLS: totals.tool_calls,
        semconv.NODES_TOTAL: totals.nodes_total,
        semconv.NODES_FAILED: totals.nodes_failed,
        semconv.NODES_RETRIED: totals.nodes_retried,
        semconv.SPANS: len(span_ids),
        semconv.SPANS_HASH: seal_hash(span_ids),
    }
    if totals.cost_nano_usd is not None:
        attributes[semconv.COST_NANO_USD] = totals.cost_nano_usd
    if unfinished.calls:
        attributes[semconv.UNFINISHED_CALLS] = unfinished.calls
        upper = unfinished.upper_cost_nano_usd(totals.cost_nano_usd)
        if upper is not None:
            attributes[semconv.COST_UPPER_NANO_USD] = upper
    if totals.first_token_seconds is not None:
        attributes[semconv.TIME_TO_FIRST_TOKEN] = totals.first_token_seconds
    return attributes | usage_attributes(totals.usage, semconv.SUM_TOKENS)


def event_id(execution_id: str, attempt: int, event: str, seq: int) -> str:
    """The id of an event. It is stable, so that an event exported twice is recognised."""
    return str(uuid5(EVENT_NAMESPACE, f"{execution_id}/{attempt}/{event}/{seq}"))


def seal_hash(span_ids: list[int]) -> str:
    """SHA-256 over the sorted span ids, 16 hex digits each, without a separator."""
    return hashlib.sha256("".join(sorted(map(format_span_id, span_ids))).encode()).hexdigest()


def usage_attributes(usage: Usage, keys: Mapping[str, str]) -> Attributes:
    """The reported token counts under `keys`; kinds that no provider reported are left out."""
    tokens = usage.model_dump(include=set(keys))
    return {keys[name]: count for name, count in tokens.items() if count is not None}


def common_attributes(identity: ExecutionIdentity) -> Attributes:
    """The attributes of every span and event of the execution."""
    common: Attributes = {
        semconv.WORKFLOW_NAME: identity.workflow_name,
        semconv.WORKFLOW_SOURCE: identity.source,
        semconv.EXECUTION_ID: identity.execution_id,
        semconv.EXECUTION_ATTEMPT: identity.attempt,
        semconv.OWNER_ID: identity.owner,
    }
    if identity.template_id is not None:
        common[semconv.TEMPLATE_ID] = identity.template_id
    if identity.template_version is not None:
        common[semconv.TEMPLATE_VERSION] = identity.template_version
    if identity.record_level != "full":
        common[semconv.RECORD_LEVEL] = identity.record_level
    return common


def identity_attributes(identity: ExecutionIdentity) -> Attributes:
    """The attributes of the root span and of the execution's events, known from the start."""
    always: Attributes = {
        **common_attributes(identity),
        semconv.OPERATION: Operation.WORKFLOW.value,
        semconv.AGENT_NAME: identity.workflow_name,
        semconv.STREAMING: identity.streaming,
        semconv.TRIGGER: identity.trigger,
        semconv.NESTED: False,
        semconv.QUEUED_AT: identity.queued_ns,
        semconv.STARTED_AT: identity.started_ns,
    }
    optional: dict[str, str | None] = {
        semconv.DEFINITION_ID: identity.definition_id,
        semconv.GRAPH_HASH: identity.graph_hash,
        semconv.CORRELATION_ID: identity.correlation_id,
        semconv.CONVERSATION_ID: identity.conversation_id,
        semconv.RETRY_OF: identity.retry_of,
        semconv.TAGS: to_json(redacted_tags(identity.tags)).decode() if identity.tags else None,
        semconv.PARAMS: to_json(redact_json(identity.params)).decode() if identity.params else None,
    }
    if identity.is_unsaved:
        always[semconv.TEMPLATE_UNSAVED] = True
    return always | {key: value for key, value in optional.items() if value is not None}


def root_attributes(identity: ExecutionIdentity) -> Attributes:
    """The attributes of the root span, known from the start: those of the events, with hashes of the parameters."""
    return with_hashed_params(identity_attributes(identity))


def with_hashed_params(attributes: Mapping[str, AttributeValue]) -> Attributes:
    """A copy in which the template's parameters are hashes: spans and logs that leave the process hold no content."""
    params = attributes.get(semconv.PARAMS)
    if not isinstance(params, str):
        return dict(attributes)
    return {**attributes, semconv.PARAMS: to_json(hashed_params(orjson.loads(params))).decode()}


def with_former_names(attributes: Mapping[str, V]) -> dict[str, V]:
    """A copy that holds values whose names have changed under their former names, too."""
    former = {each.former: attributes[each.name] for each in semconv.RENAMED_ATTRIBUTES if each.name in attributes}
    return {**attributes, **former}


def user_attributes(user: str | None, capture: Capture) -> Attributes:
    """The user of an execution for its trace: as given where spans show content, else a hash."""
    if user is None:
        return {}
    shown = one_line(redact(user)) if capture.on_spans else content_hash(user.encode("utf-8", "replace"))
    return {semconv.USER_ID: shown}


def redacted_tags(tags: JsonObject) -> JsonObject:
    """The request's tags without secrets."""
    redacted = redact_json({name: str(value) for name, value in tags.items()})
    assert isinstance(redacted, dict)
    return redacted


def hashed_params(params: JsonObject) -> JsonObject:
    """The template's parameters with a hash for each value."""
    return {name: content_hash(to_json(value)) for name, value in params.items()}


def content_hash(content: bytes) -> str:
    """Stands for content: equal contents have equal hashes, and nobody can read them."""
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def call_attributes(identity: ExecutionIdentity) -> Attributes:
    """What the span of each model call repeats of the execution: its conversation, and its template as the prompt."""
    attributes: Attributes = {}
    if identity.conversation_id is not None:
        attributes[semconv.CONVERSATION_ID] = identity.conversation_id
    if identity.source == "template":
        attributes[semconv.PROMPT_NAME] = identity.workflow_name
    if identity.source == "template" and identity.template_version is not None:
        attributes[semconv.PROMPT_VERSION] = str(identity.template_version)
    return attributes


def request_attributes(model: ChatModel, request: ModelRequest, *, streams: bool) -> Attributes:
    """The attributes of a model call's span, known from the start; `streams`: the answer is asked for as a stream."""
    settings = request.settings
    attributes: Attributes = {
        semconv.OPERATION: Operation.CHAT.value,
        semconv.PROVIDER: model.provider,
        semconv.REQUEST_MODEL: model.model,
        semconv.REQUEST_MAX_TOKENS: settings.max_tokens,
    }
    optional = {
        semconv.REQUEST_TEMPERATURE: settings.temperature,
        semconv.REQUEST_TOP_P: settings.top_p,
        semconv.REQUEST_FREQUENCY_PENALTY: settings.frequency_penalty,
        semconv.REQUEST_PRESENCE_PENALTY: settings.presence_penalty,
        semconv.REQUEST_SEED: settings.seed,
        semconv.SERVER_ADDRESS: model.server_address,
        semconv.SERVER_PORT: _port(model),
    }
    attributes |= {key: value for key, value in optional.items() if value is not None}
    if settings.stop:
        attributes[semconv.REQUEST_STOP_SEQUENCES] = [redact(text) for text in settings.stop]
    if settings.response_schema is not None:
        attributes[semconv.OUTPUT_TYPE] = "json"
    if settings.service_tier is not None and model.provider == OPENAI:
        attributes[semconv.REQUEST_SERVICE_TIER] = settings.service_tier
    if streams:
        attributes[semconv.REQUEST_STREAM] = True
    return attributes


def _port(model: ChatModel) -> int | None:
    """The port of the provider's endpoint; null if the model does not say one, as models of users may not."""
    port: int | None = getattr(model, "server_port", None)
    return port if model.server_address is not None else None


def bill_attributes(provider: str, service_tier: str | None, cost_nano_usd: int | None) -> Attributes:
    """The attributes of what the provider says of its bill beside the usage."""
    attributes: Attributes = {}
    if service_tier is not None:
        attributes[semconv.SERVICE_TIER] = service_tier
        if provider == OPENAI:
            attributes[semconv.RESPONSE_SERVICE_TIER] = service_tier
    if cost_nano_usd is not None:
        attributes[semconv.PROVIDER_COST_NANO_USD] = cost_nano_usd
    return attributes

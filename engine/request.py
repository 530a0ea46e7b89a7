"""The request for an execution, with one of four kinds of source, and its caller."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from opentelemetry.context import Context
from pydantic import Field, JsonValue

from engine.documents.json_text import to_json
from engine.graph import Document, Durability, JsonObject, OnLost, RecordLevel
from engine.identity import Trigger

MAX_NAMES = 200
"""The most parameters or overridden nodes of a request: a graph has no more nodes."""

MAX_TAGS = 16

Key = Annotated[str, Field(min_length=1, max_length=255)]
Version = Annotated[int, Field(ge=1)]


class TemplateSource(Document):
    """A template by key or id, with parameters; `version` null means the latest."""

    kind: Literal["template"]
    template: Key
    version: Version | None = None
    params: JsonObject = Field(default_factory=dict, max_length=MAX_NAMES)


class DefinitionSource(Document):
    """A stored definition by slug or id; `version` null means the latest."""

    kind: Literal["definition"]
    definition: Key
    version: Version | None = None


class UnsavedTemplate(Document):
    """A template that is stored nowhere, such as a file: its key, and the parameters that made the graph."""

    key: Key
    params: JsonObject = Field(default_factory=dict, max_length=MAX_NAMES)


class GraphSource(Document):
    """A graph inside the request; no definition is stored."""

    kind: Literal["graph"]
    graph: JsonObject
    template: UnsavedTemplate | None = None
    """The template that the graph was made from, if it is stored nowhere."""


class ChatSource(Document):
    """A turn of a conversation, new if null, on a template (default `universal_chat`) or on a definition."""

    kind: Literal["chat"]
    conversation_id: Key | None = None
    template: Key | None = None
    definition: Key | None = None
    version: Version | None = None
    params: JsonObject = Field(default_factory=dict, max_length=MAX_NAMES)


Source = Annotated[TemplateSource | DefinitionSource | GraphSource | ChatSource, Field(discriminator="kind")]


class Overrides(Document):
    """Changes to the graph for one execution. They are applied before the graph is validated, hashed and run."""

    model_defaults: JsonObject = Field(default_factory=dict)
    nodes: dict[str, JsonObject] = Field(default_factory=dict, max_length=MAX_NAMES)
    limits: JsonObject = Field(default_factory=dict)
    record_level: RecordLevel | None = None
    durability: Durability | None = None
    on_lost: OnLost | None = None


Tag = Annotated[str, Field(max_length=64)]
Disconnect = Literal["cancel", "continue"]


class ExecutionRequest(Document):
    """A request to run one execution: its workflow, input and overrides."""

    source: Source
    input: JsonObject = Field(default_factory=dict)
    overrides: Overrides = Overrides()
    mode: Literal["wait", "stream", "async"] = "wait"
    """How HTTP responds; the library has `execute()` and `stream()` instead."""
    on_disconnect: Disconnect | None = None
    tags: dict[Tag, Tag] = Field(default_factory=dict, max_length=MAX_TAGS)
    user: Key | None = None
    """The caller's user, for whom the workflow runs. Traces show a hash of it, unless they show content."""


def digest(request: ExecutionRequest, *, retry_of: str | None = None) -> str:
    """The SHA-256 of a request's source, input, overrides and user in 64 hex digits; the kind of response is not in it.

    With `retry_of` the digest differs: a retry is not the same request as a new execution.
    """
    asked = request.model_dump(mode="json", include={"source", "input", "overrides"})
    if request.user is not None:
        asked["user"] = request.user
    if retry_of is not None:
        asked["retry_of"] = retry_of
    return hashlib.sha256(to_json(asked, options=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. It is passed beside the request, so that no request body can claim an owner."""

    owner: str = "default"
    key_id: str | None = None
    key_name: str | None = None
    """The API key of the request; null without one."""
    correlation_id: str | None = None
    trigger: Trigger = "api"
    trace_context: Context | None = None
    """The caller's span: the root span of an execution is its child, and that of a queued one links to it."""
    trace_link: Context | None = None
    """The trace of an untrusted caller: the root span links to it instead of joining it."""
    idempotency_key: str | None = None
    """The same owner's requests with this key start one execution only, for `SPANLOOM_IDEMPOTENCY_HOURS`."""
    any_folder: bool = False
    """The `files` retriever may read any folder for this caller. Set by the command line, never by an HTTP request."""


__all__ = [
    "Caller",
    "ChatSource",
    "DefinitionSource",
    "ExecutionRequest",
    "GraphSource",
    "JsonValue",
    "Overrides",
    "Source",
    "TemplateSource",
    "UnsavedTemplate",
    "digest",
]

"""The request for an execution, whose source is one of four kinds, and the caller who sends it."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import orjson
from opentelemetry.context import Context
from pydantic import Field, JsonValue

from engine.graph import Document, Durability, JsonObject, OnLost, RecordLevel
from engine.identity import Trigger

Key = Annotated[str, Field(min_length=1, max_length=255)]
Version = Annotated[int, Field(ge=1)]


class TemplateSource(Document):
    """A template by key or id, with parameters; `version` null is the latest."""

    kind: Literal["template"]
    template: Key
    version: Version | None = None
    params: JsonObject = Field(default_factory=dict)


class DefinitionSource(Document):
    """A stored definition by slug or id; `version` null is the latest."""

    kind: Literal["definition"]
    definition: Key
    version: Version | None = None


class GraphSource(Document):
    """A graph sent along; no definition is stored."""

    kind: Literal["graph"]
    graph: JsonObject


class ChatSource(Document):
    """A turn of a conversation on a template (default universal_chat) or definition; a null conversation makes one."""

    kind: Literal["chat"]
    conversation_id: Key | None = None
    template: Key | None = None
    definition: Key | None = None
    version: Version | None = None
    params: JsonObject = Field(default_factory=dict)


Source = Annotated[TemplateSource | DefinitionSource | GraphSource | ChatSource, Field(discriminator="kind")]


class Overrides(Document):
    """Changes to the graph for one execution; the graph after overrides is what is validated, hashed and run."""

    model_defaults: JsonObject = Field(default_factory=dict)
    nodes: dict[str, JsonObject] = Field(default_factory=dict)
    limits: JsonObject = Field(default_factory=dict)
    record_level: RecordLevel | None = None
    durability: Durability | None = None
    on_lost: OnLost | None = None


Tag = Annotated[str, Field(max_length=64)]
Disconnect = Literal["cancel", "continue"]


class ExecutionRequest(Document):
    """One execution to run: which workflow, on what input, with what changes."""

    source: Source
    input: JsonObject = Field(default_factory=dict)
    overrides: Overrides = Overrides()
    mode: Literal["wait", "stream", "async"] = "wait"
    """How an answer over HTTP is given; the library has `execute()` and `stream()`."""
    on_disconnect: Disconnect | None = None
    tags: dict[Tag, Tag] = Field(default_factory=dict, max_length=16)


def digest(request: ExecutionRequest, *, retry_of: str | None = None) -> str:
    """What a request asks to run, in 64 hex digits: source, input and overrides; how it is answered does not count.

    To run a finished execution again is to ask for something else than to run the same anew.
    """
    asked = request.model_dump(mode="json", include={"source", "input", "overrides"})
    if retry_of is not None:
        asked["retry_of"] = retry_of
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. It is passed beside the request, so that no request body can claim an owner."""

    owner: str = "default"
    correlation_id: str | None = None
    trigger: Trigger = "api"
    trace_context: Context | None = None
    """The caller's trace, which the execution's root span joins."""
    trace_link: Context | None = None
    """The trace of a caller that is not trusted to be joined: the root span links to it."""
    idempotency_key: str | None = None
    """A request repeated under the same key starts nothing again, for `SPANLOOM_IDEMPOTENCY_HOURS`, per owner."""
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
    "digest",
]

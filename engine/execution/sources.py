"""Resolves a request's source to a graph document: finds and pins its version, fills in params, applies overrides."""

from dataclasses import dataclass, field

from uuid_utils.compat import uuid7

from engine.documents.strict_json import find_flaw
from engine.errors import Failure, InvalidRequest, NotFound
from engine.graph import Json, JsonObject, Limits
from engine.request import (
    Caller,
    ChatSource,
    DefinitionSource,
    ExecutionRequest,
    GraphSource,
    Source,
    TemplateSource,
    UnsavedTemplate,
)
from engine.resources import Definition, History, Resources, Template
from engine.security.printable import one_line
from engine.security.redaction import redact
from engine.templates.resolve import resolve as resolve_template

CHAT = "chat"
CUSTOM = "custom"
DEFAULT_CHAT_TEMPLATE = "universal_chat"
HISTORY_MESSAGES = 50
MAX_NAME_CHARACTERS = 120
MAX_MESSAGE_CHARACTERS = 100_000
_DEFAULT_LIMITS: JsonObject = Limits().model_dump()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The resolved source of a request. If `document` is null, `failure` says why it could not be built."""

    kind: str
    workflow_name: str
    document: JsonObject | None
    failure: Failure | None = None
    template: Template | None = None
    definition: Definition | None = None
    params: JsonObject = field(default_factory=dict)
    history: History | None = None

    @property
    def is_ad_hoc(self) -> bool:
        """Whether the document came with the request and is stored nowhere."""
        return self.kind == "graph" or (self.kind == "template" and self.template is None)


async def resolve(request: ExecutionRequest, caller: Caller, resources: Resources) -> Resolved:
    """Resolve the source. Raises `NotFound` or `InvalidRequest`; nothing is accepted then."""
    _check_message(request)
    _check_values(request)
    source = request.source
    match source:
        case GraphSource():
            return _of_graph(source, request)
        case TemplateSource():
            template = await _template(source.template, source.version, caller, resources)
            return _of_template("template", template.key, template, source.params, request)
        case DefinitionSource():
            definition = await _definition(source.definition, source.version, caller, resources)
            return Resolved(
                "definition", definition.slug, _with_overrides(definition.graph, request), definition=definition
            )
        case ChatSource():
            return await _chat(source, request, caller, resources)


def _of_graph(source: GraphSource, request: ExecutionRequest) -> Resolved:
    document, made_from = _with_overrides(source.graph, request), source.template
    if made_from is None:
        return Resolved("graph", workflow_name(source.graph.get("name")), document)
    return Resolved("template", workflow_name(made_from.key), document, params=made_from.params)


def workflow_name(given: Json) -> str:
    """The name of a workflow that is stored nowhere: one line without secrets, `custom` if nothing is left of it.

    Characters that cannot be seen are escaped, so that two names that look alike are alike.
    """
    text = " ".join(given.split()) if isinstance(given, str) else ""
    return redact(one_line(text))[:MAX_NAME_CHARACTERS].rstrip() or CUSTOM


async def _chat(source: ChatSource, request: ExecutionRequest, caller: Caller, resources: Resources) -> Resolved:
    if source.template is not None and source.definition is not None:
        raise InvalidRequest("a chat runs on a template or on a definition, not on both")
    if not request.input.get("message"):
        raise InvalidRequest("a chat needs a non-empty `input.message`")
    history = await _history(source, caller, resources)
    if source.definition is not None:
        definition = await _definition(source.definition, source.version, caller, resources)
        document = _with_overrides(definition.graph, request)
        return Resolved("chat", CHAT, document, definition=definition, history=history)
    template = await _template(source.template or DEFAULT_CHAT_TEMPLATE, source.version, caller, resources)
    return _of_template("chat", CHAT, template, source.params, request, history)


def _of_template(
    kind: str,
    name: str,
    template: Template,
    params: JsonObject,
    request: ExecutionRequest,
    history: History | None = None,
) -> Resolved:
    """Resolve a template. Invalid params give a failed execution rather than a refused request."""
    try:
        document: JsonObject | None = _with_overrides(resolve_template(template, params), request)
        failure: Failure | None = None
    except Failure as problem:
        document, failure = None, problem
    return Resolved(kind, name, document, failure, template=template, params=params, history=history)


async def _template(key: str, version: int | None, caller: Caller, resources: Resources) -> Template:
    template = await resources.templates.find(key, version, caller.owner)
    if template is None:
        raise NotFound(f"there is no template {key!r}" + (f" in version {version}" if version else ""))
    return template


async def _definition(slug: str, version: int | None, caller: Caller, resources: Resources) -> Definition:
    definition = await resources.definitions.find(slug, version, caller.owner)
    if definition is None:
        raise NotFound(f"there is no definition {slug!r}" + (f" in version {version}" if version else ""))
    return definition


async def _history(source: ChatSource, caller: Caller, resources: Resources) -> History:
    if source.conversation_id is None:
        return History(str(uuid7()), None, [])
    history = await resources.conversations.history(source.conversation_id, caller.owner, HISTORY_MESSAGES)
    if history is None:
        raise NotFound(f"there is no conversation {source.conversation_id!r}")
    return history


def _check_message(request: ExecutionRequest) -> None:
    message = request.input.get("message")
    if isinstance(message, str) and len(message) > MAX_MESSAGE_CHARACTERS:
        raise InvalidRequest(f"`input.message` is longer than {MAX_MESSAGE_CHARACTERS} characters")


def _check_values(request: ExecutionRequest) -> None:
    params = _params_of(request.source)
    flaw = find_flaw({"input": request.input, "params": params, "tags": request.tags, "user": request.user})
    if flaw is not None:
        raise InvalidRequest(f"the value at {flaw.pointer} {flaw.reason}")


def _params_of(source: Source) -> JsonObject:
    match source:
        case TemplateSource() | ChatSource():
            return source.params
        case GraphSource(template=UnsavedTemplate(params=params)):
            return params
        case _:
            return {}


def _with_overrides(document: JsonObject, request: ExecutionRequest) -> JsonObject:
    """Apply the request's overrides. They can only lower limits; validation checks the rest."""
    overrides = request.overrides
    if overrides == type(overrides)():
        return document
    changed: JsonObject = dict(document)
    for name in ("record_level", "durability", "on_lost"):
        value = getattr(overrides, name)
        if value is not None:
            changed[name] = value
    changed["model_defaults"] = {**_object(document.get("model_defaults")), **overrides.model_defaults}
    changed["limits"] = _lowered(_object(document.get("limits")), overrides.limits)
    changed["nodes"] = _with_node_configs(document.get("nodes"), overrides.nodes)
    return changed


def _lowered(limits: JsonObject, wanted: JsonObject) -> JsonObject:
    """The lower of the graph's and the request's limits. A null would remove a limit, so it is ignored."""
    lowered = dict(limits)
    for name, value in wanted.items():
        present = limits.get(name, _DEFAULT_LIMITS.get(name))
        if isinstance(present, int | float) and isinstance(value, int | float):
            lowered[name] = min(present, value)
        elif value is not None:
            lowered[name] = value
    return lowered


def _with_node_configs(nodes: Json, configs: dict[str, JsonObject]) -> Json:
    unknown = set(configs)
    if not isinstance(nodes, list):
        return nodes
    changed: list[Json] = []
    for node in nodes:
        if isinstance(node, dict) and node.get("id") in configs:
            node_id = str(node["id"])
            unknown.discard(node_id)
            node = {**node, "config": {**_object(node.get("config")), **configs[node_id]}}
        changed.append(node)
    if unknown:
        raise InvalidRequest(f"`overrides.nodes` names a node that the graph does not have: {min(unknown)}")
    return changed


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}

"""Turns a request into the record that the ledger stores at acceptance, and reads the request back from it."""

import orjson
from uuid_utils.compat import uuid7

from engine.execution.handle import Execution
from engine.execution.sources import Resolved
from engine.graph import Json, JsonObject
from engine.identity import ExecutionIdentity
from engine.interpreter.langgraph import CompiledWorkflow
from engine.ledger import Acceptance, CallReservation, Idempotency
from engine.request import Caller, ExecutionRequest, digest
from engine.resources import Message, as_json
from engine.result import Status

_STORED_BY_HASH = {"source": {"graph"}}
"""The part of a request that is not stored with it: graphs are stored separately, by their hash."""


def identity_of(
    request: ExecutionRequest,
    caller: Caller,
    resolved: Resolved,
    compiled: CompiledWorkflow | None,
    queued_ns: int,
    *,
    streaming: bool,
    links: list[str],
) -> ExecutionIdentity:
    """The identity of a new execution; `compiled` is null if its graph is not valid."""
    template, definition = resolved.template, resolved.definition
    return ExecutionIdentity(
        execution_id=(execution_id := str(uuid7())),
        attempt=1,
        owner=caller.owner,
        workflow_name=resolved.workflow_name,
        source=resolved.kind,
        trigger=caller.trigger,
        streaming=streaming,
        queued_ns=queued_ns,
        started_ns=queued_ns,
        correlation_id=caller.correlation_id or execution_id,
        template_id=template.id if template else None,
        template_version=template.version if template else None,
        definition_id=definition.id if definition else None,
        graph_hash=compiled.plan.content_hash if compiled else None,
        conversation_id=resolved.history.conversation_id if resolved.history else None,
        record_level=compiled.plan.graph.record_level if compiled else "full",
        tags=dict(request.tags),
        params=resolved.params,
        links=links,
        any_folder=caller.any_folder,
    )


def acceptance_of(execution: Execution, caller: Caller, status: Status) -> Acceptance:
    """The record of the acceptance that the ledger makes durable."""
    identity, compiled = execution.identity, execution.compiled
    is_chat = identity.conversation_id is not None and execution.user_message is not None
    return Acceptance(
        identity=identity,
        status=status,
        request=execution.request.model_dump(mode="json", exclude=_STORED_BY_HASH if compiled else None),
        graph=compiled.plan.canonical if compiled else None,
        user_message=as_json(execution.user_message) if is_chat and execution.user_message else None,
        root=execution.context.tracker.root,
        on_lost=execution.on_lost,
        idempotency=_idempotency(caller, execution),
        begins=reservation_of(execution) if status is Status.RUNNING else None,
    )


def reservation_of(execution: Execution) -> CallReservation | None:
    """The reservation for all calls of the attempt, by its root span; null if each call has one of its own."""
    context, root = execution.context, execution.context.tracker.root
    if context.limits.spend == "each_call" or root is None:
        return None
    return CallReservation(root.span_id, "", "", *context.budget.left())


def _idempotency(caller: Caller, execution: Execution) -> Idempotency | None:
    if caller.idempotency_key is None:
        return None
    return Idempotency(caller.idempotency_key, digest(execution.request, retry_of=execution.identity.retry_of))


def request_of(request: JsonObject, graph: bytes | None) -> ExecutionRequest:
    """The request from its stored form. `graph` is stored separately if the request contained one."""
    source = request["source"]
    if isinstance(source, dict) and source.get("kind") == "graph" and "graph" not in source:
        source = {**source, "graph": {} if graph is None else orjson.loads(graph)}
    return ExecutionRequest.model_validate({**request, "source": source})


def input_of(request: ExecutionRequest) -> Json:
    """What the execution is asked: the message alone if the input holds nothing else."""
    message = request.input.get("message")
    return message if len(request.input) == 1 and isinstance(message, str) else request.input


def user_message_of(request: ExecutionRequest) -> Message | None:
    """The user's message from `input.message`; null if it is missing or empty."""
    text = request.input.get("message")
    return Message(id=str(uuid7()), role="user", content=text) if isinstance(text, str) and text else None

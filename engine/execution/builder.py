"""Builds executions: new ones from a request, queued ones and later attempts from their stored records."""

import time
from dataclasses import replace

from engine.content.policy import ContentPolicy
from engine.errors import Failure, Refusal, ResourceMissing, Unavailable
from engine.events import EventRing
from engine.execution.acceptance import identity_of, request_of, user_message_of
from engine.execution.attempts import links_of
from engine.execution.handle import Execution
from engine.execution.loading import Loader
from engine.execution.sources import HISTORY_MESSAGES, Resolved, resolve
from engine.graph import JsonObject, WorkflowGraph
from engine.identity import ExecutionIdentity
from engine.interpreter.langgraph import CompiledWorkflow
from engine.ledger import Ledger
from engine.request import Caller, ExecutionRequest
from engine.resources import History, Resources
from engine.runtime.budget import Budget
from engine.runtime.context import ExecutionContext
from engine.runtime.state import initial_state
from engine.tracing.attributes import hashed_params
from engine.tracing.tracker import Tracing, WorkflowTracker
from engine.usage import Carried

_NO_GRAPH = WorkflowGraph.model_validate({"schema": "spanloom/1", "name": "none", "nodes": []})


class ExecutionBuilder:
    """Loads and validates graphs and builds executions from them, without starting any."""

    def __init__(self, resources: Resources, tracing: Tracing, ledger: Ledger, content: ContentPolicy) -> None:
        self._resources = resources
        self._content = content
        self._tracing = tracing
        self._ledger = ledger
        self._loader = Loader(resources)

    def build(
        self,
        request: ExecutionRequest,
        caller: Caller,
        resolved: Resolved,
        queued_ns: int,
        *,
        streaming: bool,
        joins: bool = True,
    ) -> Execution:
        """A new execution; `joins` its caller's trace or links to it. If its graph is not valid, it fails when it runs.

        Raises `MalformedWorkflow` if the document in the request does not have the shape of a graph.
        """
        compiled, failure = self._load(resolved, caller)
        links = links_of(caller, joins=joins)
        identity = identity_of(request, caller, resolved, compiled, queued_ns, streaming=streaming, links=links)
        if self._content.kept == "none":
            identity = replace(identity, params=hashed_params(identity.params))
        return self._make(request, identity, compiled, failure, resolved.history, Carried())

    async def restore(
        self, identity: ExecutionIdentity, request: JsonObject, graph: bytes | None, carried: Carried
    ) -> Execution:
        """An execution as it was accepted. It runs the stored graph, even if its template or definition has changed.

        Raises `Unavailable` if the database cannot be read.
        """
        asked = request_of(request, graph)
        history = await self._history(identity)
        if graph is not None:
            return self._make(asked, identity, self._loader.load_accepted(graph), None, history, carried)
        caller = Caller(owner=identity.owner)
        try:
            compiled, failure = self._load(await resolve(asked, caller, self._resources), caller)
        except Unavailable:
            raise
        except Refusal as refusal:
            compiled, failure = None, ResourceMissing(refusal.message)
        return self._make(asked, identity, compiled, failure, history, carried)

    async def _history(self, identity: ExecutionIdentity) -> History | None:
        """The conversation before this execution; null if the execution is not part of a conversation."""
        if identity.conversation_id is None:
            return None
        history = await self._resources.conversations.history(
            identity.conversation_id, identity.owner, HISTORY_MESSAGES, before=identity.execution_id
        )
        return history or History(identity.conversation_id, None, [])

    def _load(self, resolved: Resolved, caller: Caller) -> tuple[CompiledWorkflow | None, Failure | None]:
        if resolved.document is None:
            return None, resolved.failure
        try:
            return self._loader.load(resolved.document, caller.owner, refuse_shape=resolved.is_ad_hoc), None
        except Failure as problem:
            return None, problem

    def _make(
        self,
        request: ExecutionRequest,
        identity: ExecutionIdentity,
        compiled: CompiledWorkflow | None,
        failure: Failure | None,
        history: History | None,
        carried: Carried,
    ) -> Execution:
        graph = compiled.plan.graph if compiled else _NO_GRAPH
        tracker = WorkflowTracker(self._tracing, self._resources.prices, carried, self._content, request.user)
        user_message = user_message_of(request)
        context = ExecutionContext(
            execution_id=identity.execution_id,
            attempt=identity.attempt,
            owner=identity.owner,
            conversation_id=identity.conversation_id,
            source=identity.source,
            any_folder=identity.any_folder,
            graph=graph,
            limits=graph.limits,
            deadline=time.monotonic() + graph.limits.run_seconds,
            resources=self._resources,
            tracker=tracker,
            events=EventRing(identity.attempt),
            budget=Budget(graph.limits, self._resources.prices, tracker),
            state=initial_state(
                input=request.input,
                variables=graph.variables,
                messages=[*(history.messages if history else []), *([user_message] if user_message else [])],
                summary=history.summary if history else None,
            ),
            ledger=self._ledger,
        )
        execution = Execution(request, identity, context, history)
        execution.compiled, execution.failure, execution.user_message = compiled, failure, user_message
        context.on_fenced, context.on_lost = execution.fence_off, execution.lose
        return execution

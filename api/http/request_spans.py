"""The spans of HTTP requests: which requests have one, what it is called, and what it shows of its execution."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi import Request
from opentelemetry import context, trace
from opentelemetry.trace import StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from api.schemas.executions import Execution
from api.settings import HttpSpans
from engine.result import Status
from engine.tracing import semconv
from engine.tracing.remote_spans import remote_span
from telemetry.signals import peers

if TYPE_CHECKING:
    from engine.execution.handle import Execution as RunningExecution

MONITORING = frozenset({"/healthz", "/readyz", "/metrics", "/runbook"})
"""Health checks and scrapes are never traced."""

_STARTS = re.compile(r"/v1/executions(/[^/]+/retry)?")
_EXCLUDED: dict[HttpSpans, Callable[[Scope], bool]] = {
    "all": lambda scope: scope["path"] in MONITORING,
    "starts": lambda scope: not (scope.get("method") == "POST" and _STARTS.fullmatch(scope["path"])),
    "none": lambda scope: True,
}


def excluded_by(setting: HttpSpans) -> Callable[[Scope], bool]:
    """Tells of a request whether it has no span."""
    return _EXCLUDED[setting]


@contextmanager
def in_callers_trace(scope: Scope) -> Iterator[None]:
    """Handle a request without a span as part of its caller's trace, which its execution joins."""
    token = context.attach(TraceContextTextMapPropagator().extract(Headers(scope=scope)))
    try:
        yield
    finally:
        context.detach(token)


def name_span(request: Request, workflow_name: str) -> None:
    """Add the workflow that the request has started to the name of its span."""
    trace.get_current_span().update_name(f"{request.method} {request.scope['route'].path} {workflow_name}")


def show_caller(execution: "RunningExecution") -> None:
    """Show the caller of the started execution on the span of the request.

    That span is the outermost of the trace, by which other tools find and judge the whole.
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes(peers.about_caller(execution.context.tracker.root_attributes()))


def show_end(execution: "RunningExecution") -> None:
    """Show how the execution has ended on the span of the request that waited for it."""
    outcome = execution.outcome
    if outcome is None:
        return
    span = trace.get_current_span()
    if outcome.status is Status.COMPLETED:
        span.set_status(StatusCode.OK)
    elif outcome.status is Status.FAILED:
        span.set_attribute(semconv.ERROR_TYPE, outcome.error_type or "")
        span.set_status(StatusCode.ERROR, outcome.error_message)


def link_span(started: Execution) -> None:
    """Link the request's span to the execution, if that has a trace of its own."""
    span = trace.get_current_span()
    if started.trace_id is None or started.root_span_id is None or not span.is_recording():
        return
    root = remote_span(started.trace_id, started.root_span_id)
    if root.trace_id != span.get_span_context().trace_id:
        span.add_link(root)

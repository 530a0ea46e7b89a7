"""The spans of HTTP requests: which requests have one, what it is called, and the execution that it links to."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import Request
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from api.schemas.executions import Execution
from api.settings import HttpSpans
from engine.tracing.remote_spans import remote_span

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


def link_span(started: Execution) -> None:
    """Link the request's span to the execution, if that has a trace of its own."""
    span = trace.get_current_span()
    if started.trace_id is None or started.root_span_id is None or not span.is_recording():
        return
    root = remote_span(started.trace_id, started.root_span_id)
    if root.trace_id != span.get_span_context().trace_id:
        span.add_link(root)

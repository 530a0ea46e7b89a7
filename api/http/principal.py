"""Who sends a request, and what they may do: the owner, the key, and its scopes."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import SecurityScopes
from opentelemetry import trace
from opentelemetry.context import Context

from api.http.middleware import ids_of
from api.http.problems import Problem
from engine.request import Caller

SCOPES: dict[str, str] = {
    "executions:run": "Start and repeat executions of stored workflows",
    "executions:read": "Read executions, their traces, events and scores",
    "executions:cancel": "Cancel executions",
    "executions:approve": "Answer the questions of paused executions",
    "executions:score": "Give executions scores",
    "graphs:run": "Run graphs that come with the request, and change nodes by overrides",
    "content:read": "Read what people and models said",
    "content:delete": "Delete what people and models said",
    "templates:read": "Read templates",
    "templates:write": "Change templates",
    "definitions:read": "Read definitions",
    "definitions:write": "Change definitions",
    "analytics:read": "Read sums over executions",
    "budgets:read": "Read budgets and what is left of them",
    "budgets:write": "Change budgets",
    "webhooks:manage": "Manage webhook endpoints and deliveries",
    "keys:manage": "Manage the keys of this owner",
    "metrics:read": "Read /metrics",
    "ops": "Read the state of the service",
    "owners:all": "Read the executions of every owner",
}
"""Every scope, and what it allows."""

LINKED_TRACE = "spanloom.linked_trace"
"""The key in the ASGI scope under which the caller's trace is kept if executions link to it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request. Without a key, `key_id` and `key_name` are null."""

    owner: str = "default"
    key_id: str | None = None
    key_name: str | None = None
    scopes: frozenset[str] = frozenset(SCOPES)


def needs(*scopes: str) -> Any:
    """The dependency that gives a route its principal; refuses one without these scopes (`missing_scope`)."""
    return Security(_principal, scopes=list(scopes))


def needs_caller(*scopes: str) -> Any:
    """As `needs`, for routes that start executions: the principal as the engine's `Caller`."""
    return Security(_caller, scopes=list(scopes))


def _principal(request: Request, wanted: SecurityScopes) -> Principal:
    """All callers are one owner with every scope: the service has no API keys yet."""
    principal = Principal()
    for scope in wanted.scopes:
        if scope not in principal.scopes:
            raise Problem("missing_scope", f"The key lacks the scope {scope}.")
    return principal


def _caller(request: Request, principal: Annotated[Principal, Security(_principal)]) -> Caller:
    """The caller of a request. The execution's root span becomes a child of the request's span."""
    span = trace.get_current_span()
    return Caller(
        owner=principal.owner,
        key_id=principal.key_id,
        key_name=principal.key_name,
        correlation_id=ids_of(request).correlation_id,
        trace_context=trace.set_span_in_context(span, Context()) if span.get_span_context().is_valid else None,
        trace_link=request.scope.get(LINKED_TRACE),
    )

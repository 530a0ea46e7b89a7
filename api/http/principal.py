"""Who sends a request, and what they may do: the owner, the key, and its scopes."""

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from opentelemetry import trace
from opentelemetry.context import Context
from starlette.datastructures import Headers

from api.access.principal import MissingScope, Principal, Unauthenticated
from api.access.scopes import SCOPES
from api.http.dependencies import runtime_of
from api.http.hosts import host_of
from api.http.middleware import ids_of
from api.http.pagination import cursors_of
from api.settings import is_loopback
from engine.errors import Unavailable
from engine.request import Caller

__all__ = ["LINKED_TRACE", "SCOPES", "Principal", "needs", "needs_caller", "require"]

LINKED_TRACE = "spanloom.linked_trace"
"""The key in the ASGI scope under which the caller's trace is kept if executions link to it."""

_PRINCIPAL = "spanloom.principal"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

_described = HTTPBearer(
    scheme_name="key",
    description="An API key, `spl_…`, or a token of the identity provider. A service on a loopback address that has "
    "no keys yet needs none.",
    auto_error=False,
)
"""Only describes in OpenAPI how a key is sent; the gate reads it."""


def needs(*scopes: str) -> Any:
    """The dependency that gives a route its principal; refuses one without these scopes (`missing_scope`)."""
    return Security(_principal, scopes=list(scopes))


def needs_caller(*scopes: str) -> Any:
    """As `needs`, for routes that start executions: the principal as the engine's `Caller`."""
    return Security(_caller, scopes=list(scopes))


async def require(request: Request, *scopes: str) -> Principal:
    """The principal of a request, which has these scopes. Raises `Unauthenticated`, `MissingScope`, `Unavailable`."""
    principal = request.scope.get(_PRINCIPAL)
    if principal is None:
        principal = request.scope[_PRINCIPAL] = await _admit(request)
    assert isinstance(principal, Principal)
    for scope in scopes:
        if not principal.may(scope):
            raise MissingScope(scope)
    return principal


async def recheck(request: Request) -> None:
    """Check during a long response that the key still counts. Raises `Unauthenticated`.

    A database that does not answer ends no response.
    """
    try:
        await _admit(request)
    except Unavailable:
        return


async def sees_operations(request: Request) -> bool:
    """Whether the sender may see details of the service; anybody may on a service without keys."""
    try:
        return not runtime_of(request).gate.is_closed or (await require(request)).may("ops")
    except (Unauthenticated, Unavailable):
        return False


def is_local(request: Request) -> bool:
    """Whether the sender is on this machine and calls it by a loopback name.

    A web page that makes its own name lead here is not local, nor is the caller of a proxy, as far as it can be seen.
    """
    headers = Headers(scope=request.scope)
    if request.client is None or any(name in headers for name in _FORWARDED):
        return False
    return is_loopback(request.client.host) and is_loopback(host_of(headers.get("host", "")))


async def _admit(request: Request) -> Principal:
    return await runtime_of(request).gate.admit(request.headers.getlist("authorization"))


async def _principal(
    request: Request, wanted: SecurityScopes, described: Annotated[object, Depends(_described)]
) -> Principal:
    principal = await require(request, *wanted.scopes)
    cursors_of(principal.owner)
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

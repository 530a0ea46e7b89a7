"""/v1/keys and /v1/me: API keys of the owner, and who asks."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.access import keys
from api.http.dependencies import KeyId, NoQueryDep, QueryModel, RuntimeDep
from api.http.pagination import read_cursor, read_time, write_cursor
from api.http.principal import Principal, needs
from api.http.request_bodies import read_body
from api.http.responses import json_response, next_link, openapi_body, openapi_responses
from api.operations.keys import create_key
from api.operations.limits import limits_of
from api.schemas import keys as documents
from api.wiring.access import build_hasher
from engine.graph import JsonObject

router = APIRouter(prefix="/v1", tags=["keys"])

EXAMPLES: dict[str, JsonObject] = {
    "dashboard": {
        "summary": "A key that only reads",
        "value": {
            "name": "dashboard",
            "scopes": ["executions:read", "analytics:read"],
            "expires_at": "2027-06-30T00:00:00Z",
        },
    }
}


class KeysQuery(QueryModel):
    """The page of keys."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, Field(min_length=1, max_length=255)] | None = None


@router.get(
    "/keys",
    operation_id="keys_list",
    summary="List the keys of the owner, newest first",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of keys.", "model": documents.KeyPage}}, "invalid_request", "invalid_cursor"
    ),
)
async def list_keys(
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("keys:manage")],
    query: Annotated[KeysQuery, Query()],
) -> Response:
    """The keys without their secrets, revoked and expired ones too."""
    after = read_cursor(query.cursor, query, lambda at, id_: keys.KeyCursor(read_time(at), id_))
    async with runtime.database.read() as connection:
        found, end = await keys.list_keys(connection, principal.owner, limit=query.limit, after=after)
    cursor = write_cursor([end.created_at.isoformat(), end.id], query) if end else None
    page = documents.KeyPage(items=[documents.key(one) for one in found], next_cursor=cursor)
    return json_response(page, headers=next_link(request, cursor))


@router.post(
    "/keys",
    operation_id="keys_create",
    summary="Create a key of the same owner",
    response_model=None,
    status_code=201,
    responses=openapi_responses(
        {
            201: {
                "description": "The key with its text, which is shown only once.",
                "model": documents.NewKeyAnswer,
            }
        },
        "scope_exceeded",
        "malformed_json",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
    ),
    openapi_extra=openapi_body("KeyBody", examples=EXAMPLES),
)
async def create(
    request: Request, runtime: RuntimeDep, principal: Annotated[Principal, needs("keys:manage")], query: NoQueryDep
) -> Response:
    """It has no more scopes than the key that makes it, and expires no later. From now on all requests need one."""
    body = await read_body(request, documents.KeyBody)
    async with runtime.database.begin() as connection:
        made, text = await create_key(connection, principal, body, build_hasher(runtime.settings))
    runtime.gate.close_to_strangers()
    return json_response(documents.new_key(made, text), 201)


@router.delete(
    "/keys/{key_id}",
    operation_id="keys_revoke",
    summary="Revoke a key",
    response_model=None,
    status_code=204,
    responses=openapi_responses({204: {"description": "The key is revoked."}}, "not_found", "invalid_request"),
)
async def revoke(
    key_id: KeyId, runtime: RuntimeDep, principal: Annotated[Principal, needs("keys:manage")], query: NoQueryDep
) -> Response:
    """Every process refuses it within 5 seconds, and ends its streams within 20. Keys that it has made stay."""
    async with runtime.database.begin() as connection:
        await keys.revoke(connection, key_id, principal.owner)
    runtime.gate.forget(key_id)
    return Response(status_code=204)


@router.get(
    "/me",
    operation_id="keys_me",
    summary="Get who asks",
    response_model=None,
    responses=openapi_responses(
        {
            200: {
                "description": "The owner, the key, its scopes, and what is left of its limits.",
                "model": documents.Me,
            }
        },
        "invalid_request",
    ),
)
async def me(runtime: RuntimeDep, principal: Annotated[Principal, needs()], query: NoQueryDep) -> Response:
    """Any key may ask."""
    async with runtime.database.read() as connection:
        limits = await limits_of(connection, principal, runtime.settings)
    return json_response(documents.me(principal, limits))

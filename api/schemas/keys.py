"""Request bodies and responses about API keys, and about who asks."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.access.keys import ApiKey
from api.access.principal import Principal
from api.access.scopes import ALL, SCOPES
from api.schemas.executions import Answer
from api.schemas.values import one_of
from api.schemas.webhooks import BodyTime
from engine.graph import Document

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._@:/+-]{0,63}$"

Scope = Annotated[
    str, AfterValidator(one_of("scope", (*SCOPES, ALL))), Field(json_schema_extra={"enum": [*SCOPES, ALL]})
]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES) + 1)]


class KeyBody(Document):
    """A new key of the same owner. It has no more scopes than the key that makes it, and does not outlive that.

    The scope `*` is every scope but those that show more than one owner's: metrics:read, ops and owners:all.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    scopes: Scopes
    expires_at: BodyTime | None = None


class KeyAnswer(Answer):
    """An API key without its secret. `created_by` is the key that made it, null if it was made on the command line.

    `last_used_at` is exact to the minute. A revoked key stays in the list.
    """

    id: str
    owner: str
    name: str
    scopes: list[str]
    status: Literal["active", "expired", "revoked"]
    created_by: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyAnswer(KeyAnswer):
    """A key with its text, which is shown only once. Send it as `Authorization: Bearer spl_…`."""

    key: str


class KeyPage(Answer):
    """A page of keys; `next_cursor` is null on the last page."""

    items: list[KeyAnswer]
    next_cursor: str | None


class LimitAnswer(Answer):
    """A limit, and how much of it is left now. `name` is queued: executions of the owner that wait for a worker."""

    name: Literal["queued"]
    limit: int
    left: int


class Me(Answer):
    """Who asks. `key_id` and `key_name` are null on a service without keys; `scopes` has no `*`, but lists each one."""

    owner: str
    key_id: str | None
    key_name: str | None
    scopes: list[str]
    limits: list[LimitAnswer]


def key(found: ApiKey) -> KeyAnswer:
    """A key as a document."""
    return KeyAnswer.model_validate(_fields(found))


def new_key(made: ApiKey, text: str) -> NewKeyAnswer:
    """A key that was just created."""
    return NewKeyAnswer.model_validate(_fields(made) | {"key": text})


def me(principal: Principal, limits: list[LimitAnswer]) -> Me:
    """Who asks, as a document."""
    return Me(
        owner=principal.owner,
        key_id=principal.key_id,
        key_name=principal.key_name,
        scopes=[scope for scope in SCOPES if principal.may(scope)],
        limits=limits,
    )


def status_of(found: ApiKey) -> Literal["active", "expired", "revoked"]:
    """Whether a key counts now."""
    if found.revoked_at is not None:
        return "revoked"
    return "expired" if found.is_expired else "active"


def _fields(found: ApiKey) -> dict[str, object]:
    same = {name: getattr(found, name) for name in KeyAnswer.model_fields if name not in ("status", "scopes")}
    return same | {"status": status_of(found), "scopes": list(found.scopes)}

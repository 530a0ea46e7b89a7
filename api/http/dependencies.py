"""Dependencies of routes: the running service, ids in paths, and the Idempotency-Key."""

import re
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict

from api.http.problems import Problem
from api.http.responses import IDEMPOTENCY_KEY
from api.wiring.runtime import Runtime
from engine.errors import NotFound

_ID_PATTERN = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEY_ID = "[A-Za-z0-9]{12}"
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-~]{1,255}")


class QueryModel(BaseModel):
    """The query parameters of a route; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class NoQuery(QueryModel):
    """A route without query parameters."""


def runtime_of(request: Request) -> Runtime:
    """The running service."""
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


def _idempotency_key(request: Request) -> str | None:
    keys = request.headers.getlist(IDEMPOTENCY_KEY)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Problem("invalid_header", f"Send one {IDEMPOTENCY_KEY} of 1 to 255 visible ASCII characters.")
    return keys[0]


def _exists(kind: str, pattern: str = _ID_PATTERN) -> AfterValidator:
    """A check that a text can be an id at all, before anything is made of it: a header, a query, a log line."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        raise NotFound.of(kind, text if _PLAIN_ID.fullmatch(text) else "of this id")

    return AfterValidator(check)


_IN_PATH = Path(json_schema_extra={"format": "uuid", "pattern": f"^{_ID_PATTERN}$"})

RuntimeDep = Annotated[Runtime, Depends(runtime_of)]
IdempotencyKeyDep = Annotated[str | None, Depends(_idempotency_key)]
NoQueryDep = Annotated[NoQuery, Query()]
ExecutionId = Annotated[str, _IN_PATH, _exists("execution")]
EndpointId = Annotated[str, _IN_PATH, _exists("endpoint")]
DeliveryId = Annotated[str, _IN_PATH, _exists("delivery")]
KeyId = Annotated[str, Path(json_schema_extra={"pattern": f"^{_KEY_ID}$"}), _exists("key", _KEY_ID)]
"""Ids in paths. Any other text raises `NotFound`, like an id that nothing has."""

"""A check of schemathesis: every header of an answer is documented."""

from typing import Any

import schemathesis

_OF_HTTP = frozenset({"connection", "content-length", "content-type", "date", "transfer-encoding"})


@schemathesis.check
def headers_are_documented(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: "schemathesis.Case[Any]"
) -> bool | None:
    """Raises an assertion with the headers that the answer has and the OpenAPI document lacks."""
    documented = case.operation.definition.raw["responses"].get(str(response.status_code))
    if documented is None:
        return True
    names = {name.lower() for name in documented.get("headers", {})}
    surplus = {name.lower() for name in response.headers} - names - _OF_HTTP
    assert not surplus, f"undocumented headers: {sorted(surplus)}"
    return None

"""Hooks of schemathesis: every header of an answer is documented, and each event of a stream has its schema."""

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


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Let schemathesis check each event: before OpenAPI 3.2 it takes the schema of a stream for that of one event."""
    for operation in (one for path in raw_schema["paths"].values() for one in path.values()):
        for answer in operation["responses"].values():
            stream = answer.get("content", {}).get("text/event-stream")
            if stream is not None:
                stream["schema"] = stream["schema"]["contentSchema"]

"""JSON Schema validators: draft 2020-12, patterns in linear time, no references to other documents."""

from functools import lru_cache

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions

from engine.graph import Json, JsonObject


def validator(schema: JsonObject, *, mask: str | None = None) -> Draft202012Validator:
    """The validator of a schema, cached. Its messages contain `mask` instead of values."""
    return _made(orjson.dumps(schema), mask)


@lru_cache(maxsize=512)
def _made(schema: bytes, mask: str | None) -> Draft202012Validator:
    return Draft202012Validator(orjson.loads(schema), mask=mask, pattern_options=RegexOptions(), retriever=_refuse)


def _refuse(uri: str) -> Json:
    raise ValueError(f"a schema may not refer to another document: {uri}")

"""Values that must be one of a known set, refused with a sentence that lists the set."""

import re
from collections.abc import Callable, Sequence

from pydantic_core import PydanticCustomError

from engine.validation.pydantic_findings import UNKNOWN_VALUE

_PLAIN = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}")


def one_of(thing: str, valid: Sequence[str]) -> Callable[[str], str]:
    """A validator that takes the valid values only."""

    def check(value: str) -> str:
        if value in valid:
            return value
        context = {"thing": thing, "given": f" {name}" if (name := shown(value)) else "", "valid": ", ".join(valid)}
        raise PydanticCustomError(UNKNOWN_VALUE, "Unknown {thing}{given}. Valid {thing}s: {valid}.", context)

    return check


def shown(value: object) -> str:
    """The value in quotes if it is a plain name; nothing otherwise, as it could be content or a secret."""
    return f"'{value}'" if isinstance(value, str) and _PLAIN.fullmatch(value) else ""

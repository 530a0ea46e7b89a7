"""Times as parameters: written out with an offset, never a number."""

from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator


def _is_written(value: object) -> object:
    """Pydantic would take 5 for five seconds after 1970."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("Write a time as 2026-11-24T02:20:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_is_written)]

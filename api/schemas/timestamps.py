"""Times in parameters: ISO 8601 with an offset; numbers are refused."""

from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator


def _is_written(value: object) -> object:
    """Refuse numbers: Pydantic would read 5 as five seconds after 1970."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("Write a time as 2026-11-24T02:20:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_is_written)]

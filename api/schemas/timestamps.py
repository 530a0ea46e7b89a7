"""Times in parameters: ISO 8601 with an offset; numbers are refused."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from engine.validation.pydantic_findings import UNKNOWN_VALUE

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""Times of records, exclusive. Nearer to the ends of the calendar, time zones and whole hours overflow."""


_YEARS = "^(19[7-9]|[2-8][0-9]{2}|9[0-8][0-9]|99[0-8])[0-9]-|^999[0-8]-"


def in_range(value: datetime) -> datetime:
    """The time, if records can have it. Raises `ValueError`; a time without an offset is none of ours."""
    if value.tzinfo is None or not EARLIEST <= value < LATEST:
        raise PydanticCustomError(UNKNOWN_VALUE, "Choose a time between 1970 and 9998.")
    return value


def _is_written(value: object) -> object:
    """Refuse numbers: Pydantic would read 5 as five seconds after 1970."""
    if isinstance(value, str) and value[4:5] != "-":
        raise PydanticCustomError(UNKNOWN_VALUE, "Write a time as 2026-11-24T02:20:00Z.")
    return value


Time = Annotated[
    AwareDatetime, BeforeValidator(_is_written), AfterValidator(in_range), Field(json_schema_extra={"pattern": _YEARS})
]

"""Windows of whole hours and days, and the ids of the executions that were accepted in them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_

from telemetry.records.rollups import first_id

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Whole hours, half-open."""

    since: datetime
    until: datetime

    @classmethod
    def around(cls, since: datetime, until: datetime) -> "Window":
        """The whole hours that contain both times."""
        return cls(floor_hour(since), floor_hour(until + HOUR - timedelta(microseconds=1)))

    @property
    def first_id(self) -> str:
        """Sorts before the ids of the executions accepted within the window."""
        return first_id(self.since)

    @property
    def end_id(self) -> str:
        """Sorts after the ids of the executions accepted within the window."""
        return first_id(self.until)

    def holds(self, execution_id: ColumnElement[str]) -> ColumnElement[bool]:
        """That an execution was accepted within the window: its id is a UUIDv7, which starts with the time."""
        return and_(execution_id >= self.first_id, execution_id < self.end_id)


def floor_hour(time: datetime) -> datetime:
    """The start of the hour, in UTC."""
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

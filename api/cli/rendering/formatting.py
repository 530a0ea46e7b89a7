"""Numbers in words, as every table and tree of the terminal writes them. A null is a dash: unknown is not zero."""

from collections.abc import Collection
from datetime import UTC, datetime

from engine.usage import dollars

UNKNOWN = "–"
_SHORT_ID = 13
"""A UUIDv7 begins with its time in milliseconds: 13 characters."""


def usd(nano_usd: int | None, *, every_digit: bool = False) -> str:
    """Exact dollars; without `every_digit` closing zeros behind the cents are left out."""
    return UNKNOWN if nano_usd is None else dollars(nano_usd, every_digit=every_digit)


def duration(milliseconds: float | None) -> str:
    """Three digits at most, with their unit."""
    if milliseconds is None:
        return UNKNOWN
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1_000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1_000), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int | None) -> str:
    """With separators between thousands."""
    return UNKNOWN if number is None else f"{number:,}"


def tokens(sent: int | None, received: int | None) -> str:
    """Tokens in and out."""
    return UNKNOWN if sent is None and received is None else f"{count(sent)} → {count(received)}"


def percent(part: int, whole: int) -> str:
    """A share; a dash where there is nothing to share."""
    return f"{100 * part / whole:.1f}".removesuffix(".0") + " %" if whole else UNKNOWN


def moment(time: datetime | None) -> str:
    """UTC to the second; the column says that it is UTC."""
    return UNKNOWN if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def plural(number: int, thing: str) -> str:
    """`1 execution`, `2 executions`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def short_ids(ids: Collection[str]) -> dict[str, str]:
    """The shortest beginnings, of at least 13 characters, that tell these ids apart."""
    length = _SHORT_ID
    while len({each[:length] for each in ids}) < len(set(ids)):
        length += 1
    return {each: each[:length].rstrip("-") for each in ids}

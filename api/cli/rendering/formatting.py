"""Numbers, money and times as every table and tree of the terminal writes them. Null is a dash, not a zero."""

from datetime import UTC, datetime
from typing import Protocol

from engine.usage import dollars

UNKNOWN = "–"
MARK = "*"
"""Stands behind an amount that is not the whole truth; a line below the table says why."""


ASSUMED = "≈"
"""Stands before or after a cost that is, in part at least, an assumption."""
ASSUMED_MEANING = "at catalogue price, the server is not the provider's"


def usd(nano_usd: int | None, *, every_digit: bool = False) -> str:
    """Exact dollars; without `every_digit`, zeros after the cents are dropped."""
    return UNKNOWN if nano_usd is None else dollars(nano_usd, every_digit=every_digit)


class Cost(Protocol):
    """A cost with the calls that it does not hold: of an execution or of many."""

    @property
    def unpriced_calls(self) -> int:
        """Calls to models without a price."""

    @property
    def unmetered_calls(self) -> int:
        """Calls without usage."""

    @property
    def unfinished_calls(self) -> int:
        """Calls cut off by a crash."""

    @property
    def cost_upper_nano_usd(self) -> int | None:
        """The cost and the most that the unfinished calls may have cost; null if that is unknown."""


def unknown_calls(cost: Cost) -> str | None:
    """The calls that a cost does not hold, and the most that it can be with those of a crash; null if it is exact."""
    parts = {
        "without a price": cost.unpriced_calls,
        "without usage": cost.unmetered_calls,
        "cut off by a crash": cost.unfinished_calls,
    }
    listed = [f"{plural(number, 'call')} {why}" for why, number in parts.items() if number]
    if cost.unfinished_calls:
        upper = cost.cost_upper_nano_usd
        listed[-1] += " (limit unknown)" if upper is None else f" (with which it is at most {usd(upper)})"
    return ", ".join(listed) or None


def cost_mark(cost: Cost) -> str:
    """The mark of an amount that some calls are missing from; empty if it is exact."""
    return MARK if unknown_calls(cost) else ""


def legend(cost: Cost) -> str | None:
    """The line below amounts that explains the mark; null if there is none."""
    unknown = unknown_calls(cost)
    return f"{MARK} not the whole cost: {unknown}." if unknown else None


def duration(milliseconds: float | None) -> str:
    """A duration with its unit."""
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
    """A number with thousands separators."""
    return UNKNOWN if number is None else f"{number:,}"


def tokens(sent: int | None, received: int | None) -> str:
    """Tokens in and out."""
    return UNKNOWN if sent is None and received is None else f"{count(sent)} → {count(received)}"


def percent(part: int, whole: int) -> str:
    """A share of a whole; a dash if the whole is 0."""
    return f"{100 * part / whole:.1f}".removesuffix(".0") + " %" if whole else UNKNOWN


def size(bytes_: int) -> str:
    """A size in KiB or MiB."""
    return f"{bytes_ / 1024:,.0f} KiB" if bytes_ < 10 * 1024**2 else f"{bytes_ / 1024**2:,.0f} MiB"


def moment(time: datetime | None) -> str:
    """A time in UTC, to the second; the caller adds the zone."""
    return UNKNOWN if time is None else time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def plural(number: int, thing: str, things: str | None = None) -> str:
    """`1 execution`, `2 executions`; `things` is the plural if it does not end in s."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {things or f'{thing}s'}"

"""The HTTP header `Retry-After`: seconds or an HTTP date."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"([0-9]+)(\.[0-9]{1,6})?[0-9]*")
"""HTTP allows whole seconds only, but some providers send fractions."""
_DIGITS = 9
_MOST_SECONDS = 10.0**_DIGITS
"""More than 30 years. Callers apply limits of their own."""


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """The seconds to wait from `now` (aware), 0 to 10⁹; null for a missing or malformed header."""
    if header is None:
        return None
    text = header.strip()
    if (seconds := _SECONDS.fullmatch(text)) is not None:
        whole, fraction = seconds.groups(default="")
        return float(whole[:_DIGITS] + fraction)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return min(_MOST_SECONDS, max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()))

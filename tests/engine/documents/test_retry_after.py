"""`Retry-After` in both of its forms, and nothing else."""

from datetime import UTC, datetime

import pytest

from engine.documents.retry_after import parse_retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("2.5", 2.5),
        ("Tue, 24 Nov 2026 12:01:00 GMT", 60.0),
        ("Tue, 24 Nov 2026 12:01:00", 60.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("5.", None),
        ("٣", None),
        ("1" * 50, 111_111_111.0),
        ("0." + "1" * 400, 0.111111),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("Tue, 24 Nov 2026 12:01:00 +" + "9" * 30, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, datetime(2026, 11, 24, 12, 0, tzinfo=UTC)) == seconds

"""Numbers, money and times as text."""

from api.cli.rendering.formatting import duration, percent, tokens, usd


def test_numbers_in_words() -> None:
    assert usd(None) == "–"
    assert usd(0) == "$0.00"
    assert usd(1_500_000_000_001) == "$1,500.000000001"
    assert usd(5_500_000, every_digit=True) == "$0.005500000"
    assert [duration(each) for each in (None, 0.42, 86, 1_500, 61_000, 3_720_000)] == [
        "–",
        "0.4 ms",
        "86 ms",
        "1.50 s",
        "1 min 01 s",
        "1 h 02 min",
    ]
    assert (tokens(None, None), tokens(1_200, None)) == ("–", "1,200 → –")
    assert (percent(0, 0), percent(1, 3), percent(1, 1)) == ("–", "33.3 %", "100 %")

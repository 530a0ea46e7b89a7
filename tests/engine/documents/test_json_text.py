"""Writing JSON, and the nesting that it is bounded to."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from engine.documents.json_text import MAX_NESTING, NotJson, check_nesting, to_json
from tests.house.lock import ROOT
from tests.house.sources import sources


def nested(levels: int, *, key: str | None = None) -> Any:
    """A text inside so many lists, or objects."""
    value: Any = "deep"
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


@dataclass(frozen=True, slots=True)
class Pair:
    first: object
    second: object


@pytest.mark.parametrize("key", [None, "x"])
def test_a_value_is_nested_less_deep_than_the_limit(key: str | None) -> None:
    assert check_nesting(nested(MAX_NESTING - 1, key=key)) == MAX_NESTING - 1
    with pytest.raises(NotJson, match="is nested 64 levels deep or deeper"):
        check_nesting(nested(MAX_NESTING, key=key))


def test_nesting_is_found_in_tuples_and_dataclasses() -> None:
    for deep in (("a", nested(MAX_NESTING - 1)), Pair(1, nested(MAX_NESTING - 1))):
        with pytest.raises(NotJson, match="levels deep"):
            check_nesting(deep)


def test_the_values_inside_are_counted() -> None:
    assert check_nesting("x") == 0
    assert check_nesting([1, {"a": 2, "b": [None, True]}]) == 6


def test_a_million_levels_are_no_recursion() -> None:
    with pytest.raises(NotJson, match="levels deep"):
        to_json(nested(1_000_000))


def test_a_list_in_itself_is_refused() -> None:
    circle: list[Any] = []
    circle += [circle, circle]
    with pytest.raises(NotJson):
        to_json(circle)


def test_what_is_no_json_is_said() -> None:
    with pytest.raises(NotJson, match="is not JSON: Type is not JSON serializable: object"):
        to_json({"a": object()})


def test_options_and_default_reach_the_serialiser() -> None:
    assert to_json({"b": object(), "a": 1}, options=orjson.OPT_SORT_KEYS, default=lambda _: "?") == b'{"a":1,"b":"?"}'


def test_there_is_no_other_way_to_write_json() -> None:
    """Pydantic writes responses: its serialiser refuses what is nested too deep by itself."""
    written = ("orjson.dumps", "json.dumps", "json.dump(", "import dumps", "JSONEncoder")
    users = {file for file in sources() if any(name in (ROOT / file).read_text() for name in written)}
    assert users == {"engine/documents/json_text.py"}

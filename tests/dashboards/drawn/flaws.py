"""What is wrong with a drawn panel, in sentences: what makes a person misread a dashboard, or see nothing in it."""

import re
from collections.abc import Iterator

from tests.dashboards.drawn.drawing import JsonObject

GRAFANA_STEPS = [{"value": None, "color": "green"}, {"value": 80, "color": "red"}]
"""What Grafana takes where a panel names no thresholds: everything from 80 is red."""
UNKNOWN = "–"
_NO_UNIT = re.compile(r"[-−\d.,\s]*(?: ?(?:K|Mil|Bil|Tri))?")
_NAMELESS = re.compile(r"Value( #[A-Z]+)?( \d+)?|.*\{.*\}")
_ROUNDING = 1e-9


def flaws(panel: JsonObject, seen: JsonObject) -> list[str]:
    """The flaws of one panel, from its JSON and what was drawn."""
    looks = {"timeseries": _of_lines, "stat": _of_number, "table": _of_table}
    return [f"{seen['title']}: {flaw}" for flaw in looks[seen["type"]](panel, seen)]


def _of_lines(panel: JsonObject, seen: JsonObject) -> Iterator[str]:
    drawn = [series for series in seen.get("series", []) if series["extent"]]
    if not drawn:
        yield "is empty"
    for series in drawn:
        if is_nameless(series["name"]):
            yield f"has a series named {series['name']!r}"
        low, high = series["scale"]
        slack = _ROUNDING * max(abs(low), abs(high), 1)
        if series["extent"][0] < low - slack or series["extent"][1] > high + slack:
            yield f"cuts {series['name']} off: it goes from {series['extent']}, the axis from {series['scale']}"
    for axis in seen.get("axes", []):
        if not axis["label"] and all(_NO_UNIT.fullmatch(tick) for tick in axis["ticks"] if tick):
            yield f"has an axis without a unit: {axis['ticks']}"
    if seen.get("stepsAreDrawn"):
        yield from _of_steps(seen, drawn)


def _of_steps(seen: JsonObject, drawn: list[JsonObject]) -> Iterator[str]:
    if _is_default(seen["steps"]):
        yield "has Grafana's default thresholds"
    marks = [step["value"] for step in seen["steps"] if step["value"] is not None and step["color"] != "transparent"]
    top = max((series["scale"][1] for series in drawn), default=0)
    yield from (f"does not show its limit {mark}: the axis ends at {top}" for mark in marks if mark > top)


def _of_number(panel: JsonObject, seen: JsonObject) -> Iterator[str]:
    texts = [number["text"] for number in seen.get("numbers", [])]
    if not texts or any(text.strip() in ("", UNKNOWN, "No data") for text in texts):
        yield "is empty"
    if _is_default(seen["steps"]):
        yield "has Grafana's default thresholds"


def _of_table(panel: JsonObject, seen: JsonObject) -> Iterator[str]:
    columns = seen.get("columns", [])
    if not columns or not columns[0]["cells"]:
        yield "is empty"
    if seen["isCut"]:
        yield "has columns beyond its right edge"
    titles = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    for column in columns:
        if is_nameless(column["name"]) or column["name"] not in titles:
            yield f"has a column named {column['name']!r}"
        if all(cell.strip() in ("", UNKNOWN) for cell in column["cells"]):
            yield f"has nothing in its column {column['name']}"
        if _is_default(column["steps"]):
            yield f"has Grafana's default thresholds in its column {column['name']}"


def is_nameless(name: str) -> bool:
    """Whether a name is what Grafana writes where it has none: Value, Value #A, or labels in braces."""
    return not name.strip() or _NAMELESS.fullmatch(name) is not None


def _is_default(steps: object) -> bool:
    return steps == GRAFANA_STEPS

"""Loads a dashboard, asks Prometheus as Grafana would, and draws it in headless Chromium."""

import asyncio
import json
import re
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from playwright.async_api import Browser, ViewportSize

from tests.services.chromium import server as chromium
from tests.services.grafana import server as grafana
from tests.services.prometheus.server import Prometheus

JsonObject: TypeAlias = dict[str, Any]
"""A part of a dashboard, of Prometheus' answer, or of what the page has seen: JSON of other programs."""

_DRAW = Path(__file__).with_name("draw.js")
_VIEWPORT = ViewportSize(width=1_600, height=1_000)
_HTML = "<!doctype html><meta charset=utf-8><title>board</title><style>* { box-sizing: border-box }</style>"


@dataclass(frozen=True, slots=True)
class TimeRange:
    """What a dashboard shows, in whole seconds since the epoch, one point per second."""

    start: int
    end: int
    step: int = 1

    @property
    def values(self) -> dict[str, str]:
        """Grafana's variables; the interval of a rate is at least four scrapes of half a second."""
        return {"$__rate_interval": "6s", "$__range": f"{self.end - self.start}s"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A browser that draws dashboards."""

    browser: Browser
    prometheus: Prometheus

    async def draw(self, board: JsonObject, shown: TimeRange, png: Path) -> list[JsonObject]:
        """Write the picture; returns what is seen in each panel. Raises `AssertionError` for an error of the page."""
        answers = await asyncio.to_thread(_answers, self.prometheus, board, shown)
        script, styles = grafana.files()
        page, errors = await self.browser.new_page(viewport=_VIEWPORT), list[str]()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.set_content(_HTML)
        await page.add_style_tag(path=styles)
        await page.add_script_tag(path=script)
        await page.add_script_tag(path=_DRAW)
        png.parent.mkdir(parents=True, exist_ok=True)
        times = {"from": shown.start, "to": shown.end, "step": shown.step}
        seen: list[JsonObject] = await page.evaluate("given => draw(...given)", [board, answers, times])
        await page.screenshot(path=png, full_page=True)
        await page.close()
        assert errors == [], "\n".join(errors)
        return seen


@asynccontextmanager
async def drawing(prometheus: Prometheus) -> AsyncIterator[Drawing]:
    """A browser until the block ends. Raises `ServiceMissing`."""
    async with chromium.serve() as browser:
        yield Drawing(browser, prometheus)


def _answers(prometheus: Prometheus, board: JsonObject, shown: TimeRange) -> JsonObject:
    """The answers to the queries of each panel, by the panel's id."""
    values = shown.values | _chosen(board)
    return {
        str(panel["id"]): [_answer(prometheus, target, values, shown) for target in panel["targets"]]
        for panel in board["panels"]
        if panel["type"] != "row"
    }


def _chosen(board: JsonObject) -> dict[str, str]:
    """The variables of the dashboard as they are when it is opened: all workflows, one window."""
    variables = board.get("templating", {}).get("list", [])
    return {
        f"${each['name']}": each.get("allValue") or each["current"]["value"]
        for each in variables
        if each["type"] in ("query", "custom") and each["name"] != "service"
    }


def _answer(prometheus: Prometheus, target: JsonObject, values: dict[str, str], shown: TimeRange) -> JsonObject:
    expr = target["expr"]
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert not re.search(r"\$[a-z_]", expr), expr
    legend = target.get("legendFormat", "")
    if target.get("instant"):
        found = _get(prometheus, "query", query=expr, time=shown.end)
    else:
        found = _get(prometheus, "query_range", query=expr, start=shown.start, end=shown.end, step=shown.step)
    return {"refId": target["refId"], "legend": legend, "result": found["data"]["result"]}


def _get(prometheus: Prometheus, path: str, **query: str | int) -> JsonObject:
    url = f"{prometheus.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=20) as response:
        answer: JsonObject = json.load(response)
        return answer

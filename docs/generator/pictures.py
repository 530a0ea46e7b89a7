"""The pictures of the README: `python -m docs.generator.pictures` draws them from a run of `spanloom demo --once`.

Times differ from run to run, so `--check` of `docs.generate` does not compare them.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any, cast

from api.cli.rendering.formatting import count, tokens
from engine.usage import dollars

HOME = Path(__file__).parents[1] / "pictures"
WIDTH, LINE, MARGIN = 960, 26, 24
SANS, MONO = "system-ui, -apple-system, 'Segoe UI', sans-serif", "ui-monospace, Menlo, Consolas, monospace"
COLORS = {"workflow": "#334155", "node": "#0f766e", "model": "#7c3aed", "tool": "#c2410c", "retrieval": "#2563eb"}
FAILED, INK, MUTED, RULE = "#dc2626", "#0f172a", "#64748b", "#e2e8f0"
NAMES_WIDTH, BARS_WIDTH = 270, 360
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Demo:
    """The JSON of a demo's agent trace and of its cost table."""

    trace: Json
    cost: Json


def main() -> int:
    """Run the demo and draw both pictures."""
    demo = run_demo()
    HOME.mkdir(exist_ok=True)
    (HOME / "trace.svg").write_text(trace_picture(demo.trace))
    (HOME / "cost.svg").write_text(cost_picture(demo.cost))
    return 0


def run_demo() -> Demo:
    """A demo with its database kept, read by the same commands that users type."""
    with tempfile.TemporaryDirectory() as folder:
        told = _spanloom("demo", "--once", "--keep", TMPDIR=folder)
        found = re.search(r"SPANLOOM_DATABASE_URL=(\S+)", told)
        assert found is not None, told
        database = {"SPANLOOM_DATABASE_URL": found[1]}
        listed = json.loads(_spanloom("executions", "--template", "tool_agent", "--json", **database))["items"]
        trace = json.loads(_spanloom("trace", listed[0]["id"], "--json", **database))
        return Demo(trace, json.loads(_spanloom("cost", "--json", **database)))


def trace_picture(trace: Json) -> str:
    """The span tree: names, bars over time, duration, tokens, cost."""
    spans = cast("list[Json]", trace["spans"])
    begin = min(_time(span) for span in spans)
    total_us = max((_time(span) - begin) * 1e6 + span["duration_us"] for span in spans)
    all_nano_usd = sum(span["cost_nano_usd"] or 0 for span in spans if span["kind"] == "model")
    top = 74
    parts = [_text(MARGIN, 38, "One execution, one trace", size=17, weight=600)]
    seal = trace["seal"]
    parts.append(
        _text(WIDTH - MARGIN, 38, f"seal {seal['stored']}/{seal['expected']} spans", anchor="end", color=MUTED)
    )
    for number, span in enumerate(spans):
        parts += _span_row(span, top + number * LINE, (_time(span) - begin) * 1e6, total_us, all_nano_usd)
    return _svg(top + len(spans) * LINE, "A span tree of an execution, with time, tokens and cost", parts)


def _span_row(span: Json, y: int, start_us: float, total_us: float, all_nano_usd: int) -> list[str]:
    left = MARGIN + NAMES_WIDTH + BARS_WIDTH * start_us / total_us
    width = max(2.0, BARS_WIDTH * span["duration_us"] / total_us)
    color = FAILED if span["status"] == "failed" else COLORS.get(span["kind"], MUTED)
    name = span["name"].removeprefix("execute_node ").removeprefix("invoke_workflow ").replace("execute_tool", "tool")
    attributes = span["attributes"]
    used = [span[f"{kind}_tokens"] or attributes.get(f"workflow.usage.{kind}_tokens") for kind in ("input", "output")]
    cost = span["cost_nano_usd"] if span["depth"] else all_nano_usd
    cells = [
        _text(MARGIN + 18 * span["depth"], y, name, weight=600 if span["depth"] == 0 else 400),
        f'<rect x="{left:.1f}" y="{y - 11}" width="{width:.1f}" height="13" rx="2.5" fill="{color}"/>',
        _text(
            MARGIN + NAMES_WIDTH + BARS_WIDTH + 78, y, f"{span['duration_us'] / 1000:.1f} ms", mono=True, anchor="end"
        ),
    ]
    if None not in used:
        cells.append(_text(WIDTH - MARGIN - 108, y, tokens(*used), mono=True, anchor="end"))
    if cost:
        cells.append(_text(WIDTH - MARGIN, y, dollars(cost), mono=True, anchor="end"))
    return cells


def cost_picture(cost: Json) -> str:
    """Executions, failures, tokens and cost per template."""
    heads = ("template", "executions", "failed", "tokens in", "tokens out", "unpriced", "cost USD")
    rows = [(str(row["group"]["template"]), row) for row in cost["rows"]] + [("total", cost["total"])]
    top = 84
    parts = [_text(MARGIN, 38, "What executions cost, per template", size=17, weight=600)]
    parts += [_cell(column, top - 18, head, color=MUTED) for column, head in enumerate(heads)]
    for number, (name, row) in enumerate(rows):
        y = top + 8 + number * LINE
        if number in (0, len(rows) - 1):
            parts.append(f'<path d="M{MARGIN} {y - 18}H{WIDTH - MARGIN}" stroke="{RULE}"/>')
        values = (
            name,
            row["executions"],
            row["executions_failed"],
            count(row["input_tokens"]),
            count(row["output_tokens"]),
            row["unpriced_calls"],
            dollars(row["cost_nano_usd"], every_digit=True).removeprefix("$"),
        )
        color = [FAILED if column == 2 and value else INK for column, value in enumerate(values)]
        weight = 600 if name == "total" else 400
        parts += [
            _cell(column, y, str(value), color=color[column], weight=weight) for column, value in enumerate(values)
        ]
    bottom = top + 8 + len(rows) * LINE
    note = (
        "Prices of the offline model are demo money. Money is integer nano-dollars; unknown prices count as unpriced."
    )
    parts.append(_text(MARGIN, bottom + 8, note, size=12, color=MUTED))
    return _svg(bottom + 24, "A table of executions, failures, tokens and cost per template", parts)


def _cell(column: int, y: int, text: str, *, color: str = INK, weight: int = 400) -> str:
    rights = (MARGIN, 330, 430, 550, 670, 780, WIDTH - MARGIN)
    if column == 0:
        return _text(rights[0], y, text, color=color, weight=weight)
    return _text(rights[column], y, text, color=color, weight=weight, anchor="end", mono=True)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 14,
    color: str = INK,
    weight: int = 400,
    anchor: str = "",
    mono: bool = False,
) -> str:
    place = f' text-anchor="{anchor}"' if anchor else ""
    family = f' font-family="{MONO}"' if mono else ""
    style = f'font-size="{13 if mono else size}" font-weight="{weight}" fill="{color}"'
    return f'<text x="{x:.1f}" y="{y}" {style}{place}{family}>{escape(text)}</text>'


def _svg(height: int, title: str, parts: list[str]) -> str:
    """A white card with a border, so that it reads on light and on dark pages."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{SANS}">'
    )
    card = f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="#cbd5e1"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", card, *parts, "</svg>"]) + "\n"


def _time(span: Json) -> float:
    return datetime.fromisoformat(span["started_at"]).timestamp()


def _spanloom(*arguments: str, **environment: str) -> str:
    command = [str(Path(sysconfig.get_path("scripts")) / "spanloom"), *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

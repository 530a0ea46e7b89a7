"""P1 compares the engine with full span tree, usage and cost, without journal, to raw LangGraph without tracing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from bench.harness import Effort, Goal, Report, Row, Runner, Variant, Work, check_equal, compare, one_by_one
from bench.workflows import NAMES, OURS, RAW, SPANS, Keep, engine, raw_answer, request, run_ours
from telemetry.sdk.providers import build_telemetry

EXECUTIONS: dict[Effort, int] = {"smoke": 3, "short": 100, "full": 200}
GOALS = {"chain10": 0.50, "loop10": 0.40, "fan10": 0.50, "chat": 0.80}


@asynccontextmanager
async def _raw(name: str) -> AsyncIterator[Runner]:
    graph, start = RAW[name]
    app = graph.compile()

    async def run() -> Work:
        return Work(raw_answer(await app.ainvoke(start)))

    yield partial(one_by_one, run)


@asynccontextmanager
async def _ours(name: str) -> AsyncIterator[Runner]:
    telemetry, keep = build_telemetry(), Keep()
    telemetry.tracer_provider.add_span_processor(keep)
    wanted = request(OURS[name])
    async with engine(telemetry) as made:
        yield partial(one_by_one, lambda: run_ours(made, wanted, keep))


VARIANTS: dict[str, Variant] = {
    **{f"raw {name}": partial(_raw, name) for name in NAMES},
    **{f"ours {name}": partial(_ours, name) for name in NAMES},
}


def measure(effort: Effort) -> Report:
    """Measure the CPU time of one execution, graph by graph."""
    rows: list[Row] = []
    goals = []
    for name in NAMES:
        found = compare("p01_engine", (f"raw {name}", f"ours {name}"), executions=EXECUTIONS[effort], effort=effort)
        check_equal(found, spans={f"raw {name}": 0, f"ours {name}": SPANS[name]})
        raw, ours = found[f"raw {name}"], found[f"ours {name}"]
        ratio = ours.ratio(raw)
        rows.append(
            {"graph": name, "raw µs": raw.cpu_us, "ours µs": ours.cpu_us, "ratio": ratio, "spans": ours.work.spans}
        )
        goals.append(Goal(name, ratio, GOALS[name]))
    return Report("P1", "CPU per execution, fully traced, against raw untraced LangGraph", rows, goals)

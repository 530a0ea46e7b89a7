"""`spanloom demo`: run a few executions on the offline model in a temporary database, and show trace and cost."""

import importlib.resources
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from api.cli import interrupts, terminal
from api.cli.commands.cost import cost_report
from api.cli.commands.trace import find_trace
from api.cli.exit_codes import BAD_NEWS, DONE, INTERRUPTED
from api.cli.live_run import Followed, follow, problem, summary
from api.cli.rendering.tables import cost_table
from api.cli.rendering.trace_tree import trace_header, trace_view
from api.service.background import run_worker
from api.service.server import CannotListen, listen, serve_runtime
from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from api.wiring.shutdown import Patience
from engine.graph import JsonObject
from engine.models.offline import OFFLINE
from engine.request import ExecutionRequest
from engine.result import Status
from telemetry.reads.cost_query import CostFilter

_HOST = "127.0.0.1"
_PORTS_TRIED = 50
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class _Step:
    """One execution of the demo."""

    title: str
    template: str
    message: str
    params: JsonObject = field(default_factory=dict)
    ends: Status = Status.COMPLETED


def _steps(docs: Path) -> list[_Step]:
    path: JsonObject = {"path": str(docs)}
    absent: JsonObject = {"path": str(docs / "absent")}
    return [
        _Step("A question about spanloom's own documents", "rag_chat", "How is cost kept exact?", path),
        _Step("An agent that calculates", "tool_agent", "What is 17.5 * 12?"),
        _Step("An agent that searches documents", "tool_agent", "Find out what the seal of a trace says.", path),
        _Step("A failure on purpose: a folder that does not exist", "document_qa", "Who?", absent, Status.FAILED),
    ]


def run_demo(*, once: bool, port: int, keep: bool) -> int:
    """Run the demo, then serve it, or exit with `once`."""
    settings = terminal.begin()
    docs = Path(str(importlib.resources.files("api"))) / "demo" / "docs"
    with _folder(keep=keep) as folder, ExitStack() as stack:
        listener = None if once else stack.enter_context(_listen(port))
        demo_settings = _settings(settings, folder, docs)
        return interrupts.run(_demo(demo_settings, _steps(docs), listener, is_kept=keep))


def _settings(settings: Settings, folder: Path, docs: Path) -> Settings:
    """The settings of the environment, with a temporary database and the offline model."""
    changed: dict[str, object] = {
        "database_url": f"sqlite:///{folder / 'demo.db'}",
        "model": ":".join(OFFLINE),
        "bind": None,
        "oidc_issuer": None,
        "prices": None,
        "files_roots": (docs,),
        "drain_seconds": 1.0,
    }
    return settings.model_copy(update=changed)


async def _demo(settings: Settings, steps: list[_Step], listener: socket.socket | None, *, is_kept: bool) -> int:
    console = terminal.console()
    patience = terminal.patience() if listener is None else Patience()
    async with open_runtime(settings, patience=patience) as runtime:
        ids: list[str] = []
        as_planned = True
        for number, step in enumerate(steps, 1):
            followed = await _run(runtime, step, f"{number}. {step.title}", console)
            if followed.was_interrupted:
                return INTERRUPTED
            ids.append(followed.result.execution_id)
            as_planned = as_planned and followed.result.status is step.ends
        await _show_books(runtime, ids[2], console)
        if listener is not None:
            async with run_worker(runtime):
                await serve_runtime(runtime, listener, lambda url: _say_where(console, url, ids[2], settings))
    if listener is None:
        _say_next(console, settings if is_kept else None)
    return DONE if as_planned else BAD_NEWS


async def _run(runtime: Runtime, step: _Step, title: str, console: Console) -> Followed:
    console.print(Text(title, style="bold"))
    console.print(f"{step.template}: {step.message}", style="dim")
    source: JsonObject = {"kind": "template", "template": step.template, "params": step.params}
    request = ExecutionRequest.model_validate({"source": source, "input": {"message": step.message}})
    followed = await follow(runtime, request)
    reason = problem(followed.result)
    if reason is not None:
        console.print(reason, soft_wrap=True)
    terminal.console(stderr=True).print(summary(followed, hint=False), soft_wrap=True)
    console.print()
    return followed


async def _show_books(runtime: Runtime, execution_id: str, console: Console) -> None:
    """Print the trace of one execution and the cost of all."""
    async with runtime.database.read() as connection:
        record, trace = await find_trace(connection, execution_id)
        report, demo = await cost_report(connection, CostFilter(), ["template"])
    console.print(Text("Trace of execution 3:", style="bold"))
    console.print(trace_header(record))
    console.print(trace_view(trace, record, width=min(console.width, _WIDTH)))
    console.print(Text("\nCost per template:", style="bold"))
    terminal.show(cost_table(report, demo))
    console.print()


def _say_next(console: Console, kept: Settings | None) -> None:
    lines = [
        "spanloom run document_qa --param path=FOLDER -m 'QUESTION'   ask about your own text and Markdown files",
        "spanloom trace last                                          its span tree",
        "spanloom cost                                                cost per template",
        "spanloom demo                                                this demo again, then the HTTP API",
    ]
    if kept is not None:
        lines.append(f"SPANLOOM_DATABASE_URL={kept.database_url} spanloom executions")
    console.print(Text("Where to look next:", style="bold"))
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def _say_where(console: Console, url: str, execution_id: str, settings: Settings) -> None:
    chat = (
        '{"source": {"kind": "template", "template": "tool_agent"}, "input": {"message": "2 * 21?"}, "mode": "stream"}'
    )
    lines = [
        f"curl -s {url}/v1/executions",
        f"curl -s {url}/v1/executions/{execution_id}/trace",
        f"curl -s '{url}/v1/analytics/cost?group_by=template'",
        f"curl -sN {url}/v1/executions -H 'content-type: application/json' -d '{chat}'",
        f"SPANLOOM_DATABASE_URL={settings.database_url} spanloom executions",
    ]
    console.print(Text(f"Serving these executions at {url} until Ctrl-C. Try:", style="bold"))
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="spanloom-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _listen(port: int) -> socket.socket:
    """Listen on the port, or the next free one. Raises `CannotListen`."""
    for candidate in range(port, min(port + _PORTS_TRIED, 65_536)):
        try:
            return listen(_HOST, candidate)
        except CannotListen:
            continue
    raise CannotListen(
        f"Ports {port} to {min(port + _PORTS_TRIED, 65_536) - 1} are in use. Choose another with --port."
    )

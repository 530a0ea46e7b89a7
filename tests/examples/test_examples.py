"""Every example runs: the workflows through the engine, the scripts as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spanloom import ExecutionEngine, ExecutionRequest, local_resources
from tests.house.lock import ROOT

EXAMPLES = ROOT / "examples"
WORKFLOWS = {
    "write-and-review": ("spans", "completed", "offline model"),
    "answer-from-documents": ("When is a refund paid?", "completed", "within 14 days"),
    "agent-with-tools": ("What is 17.5 * 12?", "completed", "gives 210"),
    "two-drafts": ("hello", "completed", "offline model"),
    "reply-with-approval": ("Where is my parcel?", "paused", ""),
    "handle-errors": ("When is a refund paid?", "completed", "Please try again later."),
}
"""Workflow to message, status, and what the response contains."""
SCRIPTS = {
    "run_workflow.py": (["workflows/agent-with-tools.json", "What is 17.5 * 12?"], "completed: calculate(17.5 * 12)"),
    "stream_events.py": (["hello"], "[completed]"),
    "own_tool.py": (["How many pieces of article A7 are in stock?"], "stock(A7) gives 12"),
}
"""Script to arguments and what it prints."""


def test_every_example_is_run_here() -> None:
    assert {file.stem for file in (EXAMPLES / "workflows").glob("*.json")} == set(WORKFLOWS)
    assert {file.name for file in (EXAMPLES / "scripts").glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", list(WORKFLOWS))
async def test_a_workflow_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES / "workflows")
    message, status, text = WORKFLOWS[name]
    source = {"kind": "graph", "graph": json.loads(Path(f"{name}.json").read_text())}
    request = ExecutionRequest.model_validate({"source": source, "input": {"message": message}})
    async with local_resources(files_roots=["."]) as resources:
        result = await ExecutionEngine(resources).execute(request)
    assert (result.status, text in result.response) == (status, True), result


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_a_script_runs(name: str) -> None:
    arguments, text = SCRIPTS[name]
    command = [sys.executable, "-W", "error", str(EXAMPLES / "scripts" / name), *arguments]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, text in done.stdout) == (0, "", True), done

"""The command line over the queue: leaving an execution to a service, following it, answering, retrying, cancelling."""

import asyncio
import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from api.cli.commands.executions import _given
from api.cli.errors import WrongUse
from tests.api.cli.shell import Shell
from tests.api.harness import Service
from tests.api.operations.test_approve import REVIEW
from tests.api.routers.test_reconcile import spanloom
from tests.attacks.otlp_sink import otlp_sink

OFFLINE = ("run", "universal_chat", "-m", "hi")


@contextmanager
def serving(shell: Shell) -> Iterator[None]:
    """A service over the shell's database."""
    process = shell.start("serve", SPANLOOM_BIND="127.0.0.1:0")
    assert process.stderr is not None
    try:
        while "ready at " not in (line := process.stderr.readline()):
            assert line, "it ended before it was ready"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_service_runs_a_queued_execution_that_can_be_followed(shell: Shell) -> None:
    queued = shell.run(*OFFLINE, "--async")
    execution_id = queued.stdout.strip()
    assert (queued.returncode, len(execution_id)) == (0, 36)
    assert f"spanloom trace {execution_id} --follow" in queued.stderr
    document = shell.json("executions", "show", execution_id)
    trace_id = document["trace_id"]
    assert (document["status"], len(trace_id)) == ("queued", 32)
    shown = shell.run("executions", "show", execution_id).stdout
    assert "Queued. It starts when a `spanloom serve` is running on this database." in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("started", "trace"))] == [
        ["started", "–"],
        ["trace", trace_id],
    ]
    assert "1970" not in shown + shell.run("trace", execution_id).stdout
    assert shell.json("executions", "list") == shell.json("executions")
    with serving(shell):
        followed = shell.run("trace", execution_id, "--follow")
    assert followed.returncode == 0, followed.stderr
    assert followed.stderr.splitlines()[-1] == "completed"
    assert followed.stdout.startswith("universal_chat  completed")
    assert shell.json("executions", "show", execution_id)["trace_id"] == trace_id
    again = shell.run("executions", "retry", execution_id)
    assert (again.returncode, len(again.stdout.strip())) == (0, 36)
    retried = shell.json("executions", "show", again.stdout.strip())
    assert (retried["status"], retried["retry_of"], retried["trigger"]) == ("queued", execution_id, "retry")
    assert shell.run("executions", "cancel", again.stdout.strip()).returncode == 0


def test_a_queued_execution_is_cancelled_at_once(shell: Shell) -> None:
    execution_id = shell.json(*OFFLINE, "--async")["id"]
    cancelled = shell.run("executions", "cancel", execution_id, "--reason", "not needed")
    assert (cancelled.returncode, cancelled.stdout) == (0, f"Execution {execution_id} is cancelled.\n")
    shown = shell.json("executions", "show", execution_id)
    assert (shown["cancel_reason"], shown["root_span_id"] is None) == ("not needed", False)
    assert shell.json("trace", execution_id)["seal"] == {
        "stored": 1,
        "expected": 1,
        "complete": True,
        "pruned_at": None,
    }
    badly = shell.run("trace", execution_id, "--follow")
    assert (badly.returncode, badly.stderr.splitlines()[-1]) == (1, "cancelled")


def test_a_question_is_shown_and_answered_once_and_the_execution_continues(shell: Shell) -> None:
    (shell.folder / "review.json").write_text(json.dumps(REVIEW))
    paused = shell.run("run", "review.json", "-m", "write")
    assert paused.returncode == 1, paused.stderr
    assert "spanloom executions show " in paused.stderr
    execution_id = shell.json("executions")["items"][0]["id"]
    shown = shell.run("executions", "show", "last")
    assert "approved or rejected" in shown.stdout
    resume = ("executions", "resume", execution_id, "--choice")
    wrong = shell.run(*resume, "maybe", "--data", "{}")
    assert (wrong.returncode, wrong.stderr) == (4, "spanloom: The choices are: approved, rejected.\n")
    answered = shell.run(*resume, "rejected", "--data", "{}")
    assert answered.returncode == 0, answered.stderr
    assert "answered, waiting for a worker" in shell.run("executions", "show", "last").stdout
    assert shell.run(*resume, "approved", "--data", "{}").returncode == 4
    with serving(shell):
        assert shell.run("trace", execution_id, "--follow").returncode == 0
    assert shell.run(*resume, "approved").returncode == 4


def test_cancelling_a_paused_execution_drops_its_checkpoints(shell: Shell) -> None:
    (shell.folder / "review.json").write_text(json.dumps(REVIEW))
    assert shell.run("run", "review.json", "-m", "write").returncode == 1
    assert checkpoints(shell) > 0
    assert shell.run("executions", "cancel", "last").returncode == 0
    assert checkpoints(shell) == 0


def checkpoints(shell: Shell) -> int:
    """How many checkpoints LangGraph's saver has stored."""
    with closing(sqlite3.connect(shell.folder / "spanloom.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM checkpoints").fetchone()[0])


def test_an_execution_that_has_not_ended_cannot_be_retried(shell: Shell) -> None:
    execution_id = shell.json(*OFFLINE, "--async")["id"]
    refused = shell.run("executions", "retry", execution_id)
    assert (refused.returncode, refused.stderr) == (4, "spanloom: The execution has not ended yet.\n")
    assert shell.run("executions", "cancel", execution_id).returncode == 0


def test_data_that_is_not_json_is_wrong_use(shell: Shell) -> None:
    execution_id = shell.json(*OFFLINE, "--async")["id"]
    wrong = shell.run("executions", "resume", execution_id, "--choice", "approved", "--data", "{")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("spanloom: --data: ")
    shell.run("executions", "cancel", execution_id)


def test_an_execution_is_cancelled_from_another_terminal(shell: Shell, waiting: subprocess.Popen[str]) -> None:
    cancelled = shell.run("executions", "cancel", "last", "--reason", "too slow")
    assert cancelled.returncode == 0
    assert cancelled.stdout.endswith(" is cancelled.\n")
    assert shell.finish(waiting).returncode == 1
    again = shell.run("executions", "show", "last")
    assert "too slow" in again.stdout


def test_an_execution_that_has_ended_cannot_be_cancelled(shell: Shell) -> None:
    shell.ask()
    done = shell.run("executions", "cancel", "last")
    assert (done.returncode, done.stdout) == (4, "")
    assert "has already ended: completed" in done.stderr


def test_input_and_answer_are_shown_and_can_be_forgotten(shell: Shell) -> None:
    execution_id = json.loads(shell.run(*OFFLINE, "--json", SPANLOOM_CONTENT="full").stdout)["execution_id"]
    answer = shell.json("executions", "show", execution_id)["result"]["response"]
    shown = shell.run("executions", "show", execution_id).stdout
    assert "input" in shown
    assert answer.split()[0] in shown
    traced = shell.run("trace", execution_id, "--content").stdout
    assert "user  hi" in traced
    assert f"assistant  {answer.splitlines()[0]}" in traced
    [call] = shell.json("trace", execution_id, "--content")["calls"]
    assert call["operation"] == "chat"

    forgotten = shell.run("executions", "forget", execution_id)
    assert (forgotten.returncode, forgotten.stderr) == (0, "")
    assert "Its numbers stay." in forgotten.stdout
    assert shell.run("executions", "forget", execution_id).returncode == 0, "repeating it is harmless"
    assert "Input and answer were forgotten." in shell.run("executions", "show", execution_id).stdout
    assert "No content of calls is stored." in shell.run("trace", execution_id, "--content").stdout
    found = shell.json("executions", "show", execution_id)
    assert (found["content"], found["result"], found["model_calls"]) == ("forgotten", None, 1)
    assert shell.run("executions", "retry", execution_id).returncode == 4
    assert shell.run("reconcile").returncode == 0


def test_a_queued_execution_is_not_forgotten(shell: Shell) -> None:
    execution_id = shell.json(*OFFLINE, "--async")["id"]
    refused = shell.run("executions", "forget", execution_id)
    assert refused.returncode == 4
    assert "is queued, and needs its content; wait for its end or cancel it" in refused.stderr
    assert shell.run("executions", "cancel", execution_id).returncode == 0


def test_an_unknown_capture_mode_stops_the_command(shell: Shell) -> None:
    done = shell.run(*OFFLINE, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="everything")
    assert done.returncode == 2
    assert "use NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT, true (SPAN_ONLY) or false" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_score_is_given_and_shown(service: Service, migrated_sqlite_url: str) -> None:
    id_ = str((await service.start()).json()["execution_id"])

    def run(*arguments: str) -> tuple[int, str]:
        done = spanloom(migrated_sqlite_url, *arguments)
        return done.returncode, done.stdout + done.stderr

    rated = ("executions", "score", "last", "--name", "rating", "--value", "4", "--comment", "Right.")
    code, said = await asyncio.to_thread(run, *rated)
    assert (code, said.split()) == (0, ["score", "rating", "4", "(human):", "Right."])
    label = ("executions", "score", id_, "--name", "format", "--value", "valid", "--source", "code", "--json")
    code, said = await asyncio.to_thread(run, *label)
    assert (code, json.loads(said)["value"]) == (0, "valid")

    code, shown = await asyncio.to_thread(run, "executions", "show", id_)
    assert (code, "rating 4 (human): Right." in shown, "format valid (code)" in shown) == (0, True, True)
    code, shown = await asyncio.to_thread(run, "executions", "show", id_, "--json")
    assert [one["value"] for one in json.loads(shown)["scores"]] == ["valid", 4.0]
    code, means = await asyncio.to_thread(run, "scores")
    assert "format = valid" in means
    code, means = await asyncio.to_thread(run, "scores", "--name", "rating", "--json")
    assert [(row["name"], row["mean"]) for row in json.loads(means)["rows"]] == [("rating", 4.0)]


async def test_a_score_of_a_command_reaches_the_trace_store(
    service: Service, migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.start()
    with otlp_sink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        rated = ("executions", "score", "last", "--name", "rating", "--value", "4")
        done = await asyncio.to_thread(spanloom, migrated_sqlite_url, *rated)
        assert done.returncode == 0, done.stderr
        assert [event.event_name for event in sink.events()] == ["gen_ai.evaluation.result"]


async def test_a_score_that_cannot_be_is_refused(service: Service, migrated_sqlite_url: str) -> None:
    await service.start()
    wrong = ("executions", "score", "last", "--name", "rating", "--value", "4", "--source", "robot")
    done = await asyncio.to_thread(spanloom, migrated_sqlite_url, *wrong)
    assert (done.returncode, "--source" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nan", "finite number"),
        ("1e400", "finite number"),
        ("1e16", "less than"),
        ("x" * 65, "at most 64 characters"),
        ("", "at least 1 character"),
    ],
)
def test_a_number_out_of_bounds_does_not_become_a_label(value: str, problem: str) -> None:
    with pytest.raises(WrongUse, match=f"--value: .*{problem}"):
        _given("rating", value, "human", None)

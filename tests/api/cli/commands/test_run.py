"""`spanloom run`: the answer, progress, questions, and Ctrl-C."""

import json
import sqlite3
import subprocess
import sys

from tests.api.cli.shell import ANSWER, QUESTION, Shell
from tests.api.cli.workflows import GRAPH
from tests.api.operations.test_approve import REVIEW
from tests.attacks.otlp_sink import otlp_sink


def test_a_question_to_a_folder_is_answered_and_in_the_books(shell: Shell) -> None:
    done = shell.ask()
    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert "demo money, not real · spanloom trace " in done.stderr
    listed = shell.json("executions")
    (record,) = listed["items"]
    assert (record["status"], record["trigger"], record["seal"]["complete"]) == ("completed", "cli", True)
    assert shell.json("cost")["total"]["cost_nano_usd"] == record["cost_nano_usd"] > 0
    beginning = str(record["id"])[:10]
    assert shell.json("executions", "show", beginning)["id"] == record["id"]
    trace = shell.run("trace")
    assert trace.stdout.startswith("document_qa  completed")
    assert "chat extractive" in trace.stdout
    assert "seal 7/7 spans" in trace.stdout
    assert "\x1b" not in trace.stdout


def test_the_result_as_json_is_all_that_is_on_stdout(shell: Shell) -> None:
    done = shell.finish(shell.start("run", "tool_agent", "-m", "What is 17.5 * 12?", "--json", "--quiet"))
    result = json.loads(done.stdout)
    assert (result["status"], result["response"], done.stderr) == ("completed", "calculate(17.5 * 12) gives 210.", "")


def test_params_are_read_as_the_schema_of_the_template_has_them(shell: Shell) -> None:
    params = ["-p", "path=texts", "-p", "max_documents=1", "-p", "system_message=12"]
    assert shell.run("run", "rag_chat", *params, "-m", QUESTION).stdout == ANSWER
    (record,) = shell.json("executions")["items"]
    assert record["params"] == {"path": "texts", "max_documents": 1, "system_message": "12"}


def test_a_graph_in_a_file_runs_on_the_input_of_a_file(shell: Shell) -> None:
    (shell.folder / "greeting.json").write_text(json.dumps(GRAPH))
    (shell.folder / "input.json").write_text('{"name": "Ada"}')
    done = shell.run("run", "greeting.json", "--input", "@input.json")
    assert (done.returncode, done.stdout) == (0, "Hello Ada\n")
    failed = shell.run("run", "greeting.json", "--input", '{"name": ""}')
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no_name" in failed.stderr
    assert "Give a name." in failed.stderr


def test_a_provider_without_its_package_says_how_to_install_it(shell: Shell) -> None:
    code = "import sys; sys.modules['langchain_openai'] = None; from api.cli.main import main; main()"
    arguments = ["run", "universal_chat", "-p", "provider=openai", "-p", "model=m", "-m", "hi"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=shell.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'spanloom[openai]'" in done.stderr


def test_a_locked_database_refuses_and_loses_nothing(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    other = sqlite3.connect(shell.folder / "spanloom.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = shell.ask()
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "locked by another process" in refused.stderr
    assert len(shell.json("executions")["items"]) == 1
    other.close()
    assert shell.ask().returncode == 0


def test_a_quiet_run_that_pauses_prints_its_question_and_how_to_answer(shell: Shell) -> None:
    (shell.folder / "review.json").write_text(json.dumps(REVIEW))
    paused = shell.run("run", "review.json", "-m", "write", "--quiet")
    assert (paused.returncode, paused.stdout) == (1, "")
    assert paused.stderr.startswith("Question: Good? ")
    assert "approved or rejected, until " in paused.stderr
    execution_id = shell.json("executions")["items"][0]["id"]
    assert f"To answer: spanloom executions resume {execution_id} --choice approved" in paused.stderr
    assert shell.run("executions", "cancel", execution_id).returncode == 0


def test_a_user_is_a_hash_in_the_trace(shell: Shell) -> None:
    with otlp_sink() as sink:
        started = shell.start(
            *("run", "tool_agent", "-m", "What is 2 * 3?", "--user", "ada@example.org"),
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.url,
            OTEL_LOGS_EXPORTER="none",
        )
        assert shell.finish(started).returncode == 0
    assert sink.holds("/v1/traces", "user.id")
    assert not sink.holds("/v1/traces", "ada@example.org")


def test_a_user_without_a_name_is_refused(shell: Shell) -> None:
    done = shell.run("run", "tool_agent", "-m", "hi", "--user", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "user" in done.stderr

"""The command line on a SQLite file of its own: in this process, and in one of its own where signals matter."""

import asyncio
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.cli.commands import cost as cost_command
from engine.store.checkpoints import open_checkpoints

SPANLOOM = Path(sys.executable).parent / "spanloom"
SECONDS = 60
TEXT = "# Harbour\n\nThe lighthouse of Brant was built in 1841.\n\n# Ferry\n\nThe ferry leaves every hour.\n"
QUESTION = "When was the lighthouse built?"
ANSWER = "“The lighthouse of Brant was built in 1841.” (harbour.md > Harbour)\n"

Done = subprocess.CompletedProcess[str]


class Shell:
    """A folder in which commands run, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "texts").mkdir()
        (folder / "texts" / "harbour.md").write_text(TEXT)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its streams are pipes."""
        return subprocess.Popen(
            [SPANLOOM, *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run a command to its end, in this process: imports are paid once."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["spanloom", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main.main()
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return Done(arguments, int(end.value.code or 0), *said)

    def ask(self) -> Done:
        """A question to the text of the folder."""
        return self.run("run", "document_qa", "--param", "path=texts", "--message", QUESTION)

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Done:
        """Wait for the end."""
        out, err = process.communicate(timeout=SECONDS)
        assert "Traceback" not in err
        return Done(process.args, process.returncode, out, err)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An empty folder with a text in it."""
    return Shell(tmp_path)


@pytest.fixture
def waiting(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    """A process whose execution waits for a provider that takes the call and never answers."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(SECONDS)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        process = shell.start("run", "universal_chat", "-m", "hi", OPENAI_BASE_URL=address, OPENAI_API_KEY="key")
        stack.callback(process.communicate)
        stack.callback(process.kill)
        connection, _ = server.accept()
        stack.enter_context(connection)
        yield process


def _modules_after(*arguments: str, folder: Path) -> set[str]:
    """The top-level packages that a command has imported when it ends."""
    code = (
        "import sys, api.cli.main\n"
        f"sys.argv = {['spanloom', *arguments]!r}\n"
        "try:\n    api.cli.main.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n', *{name.partition('.')[0] for name in sys.modules}, 'opentelemetry.sdk' * "
        "('opentelemetry.sdk' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    heavy = {"langchain", "langchain_core", "langgraph", "sqlalchemy", "fastapi", "opentelemetry", "rich", "alembic"}
    for arguments in (["--help"], ["run", "--help"], ["executions", "--help"]):
        assert _modules_after(*arguments, folder=tmp_path) & heavy == set()


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


UNNEEDED = {"alembic", "langchain", "langchain_core", "langgraph", "mako", "pygments"}


def test_commands_that_read_import_neither_langgraph_nor_alembic(shell: Shell, migrated_sqlite_url: str) -> None:
    assert migrated_sqlite_url == f"sqlite:///{shell.folder / 'spanloom.db'}"
    for command in ("executions", "cost"):
        assert _modules_after(command, folder=shell.folder) & UNNEEDED == set()


def test_the_result_as_json_is_all_that_is_on_stdout(shell: Shell) -> None:
    done = shell.finish(shell.start("run", "tool_agent", "-m", "What is 17.5 * 12?", "--json", "--quiet"))
    result = json.loads(done.stdout)
    assert (result["status"], result["response"], done.stderr) == ("completed", "calculate(17.5 * 12) gives 210.", "")


def test_params_are_read_as_the_schema_of_the_template_has_them(shell: Shell) -> None:
    params = ["-p", "path=texts", "-p", "max_documents=1", "-p", "system_message=12"]
    assert shell.run("run", "rag_chat", *params, "-m", QUESTION).stdout == ANSWER
    (record,) = shell.json("executions")["items"]
    assert record["params"] == {"path": "texts", "max_documents": 1, "system_message": "12"}


GRAPH = {
    "schema": "spanloom/1",
    "name": "greeting",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "polite", "type": "conditional", "config": {"condition": "input.name != ''"}},
        {"id": "end", "type": "end", "config": {"response": "Hello {{ input.name }}"}},
        {"id": "refuse", "type": "end", "config": {"fail": {"error_type": "no_name", "message": "Give a name."}}},
    ],
    "edges": [
        {"source": "start", "target": "polite"},
        {"source": "polite", "target": "end", "when": "true"},
        {"source": "polite", "target": "refuse", "when": "false"},
    ],
    "input_schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}


def test_a_graph_in_a_file_runs_on_the_input_of_a_file(shell: Shell) -> None:
    (shell.folder / "greeting.json").write_text(json.dumps(GRAPH))
    (shell.folder / "input.json").write_text('{"name": "Ada"}')
    done = shell.run("run", "greeting.json", "--input", "@input.json")
    assert (done.returncode, done.stdout) == (0, "Hello Ada\n")
    failed = shell.run("run", "greeting.json", "--input", '{"name": ""}')
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no_name" in failed.stderr
    assert "Give a name." in failed.stderr


def test_a_typo_in_a_condition_is_named_with_what_was_meant(shell: Shell) -> None:
    broken = json.dumps(GRAPH).replace("input.name != ''", "outputs.strat.name != ''")
    (shell.folder / "broken.json").write_text(broken)
    (shell.folder / "greeting.json").write_text(json.dumps(GRAPH))
    run = shell.run("run", "broken.json", "--input", '{"name": "Ada"}')
    assert (run.returncode, run.stdout) == (1, "")
    assert "invalid_workflow" in run.stderr
    assert "Did you mean `outputs.start`?" in run.stderr
    checked = shell.run("validate", "greeting.json", "broken.json", "--json")
    assert checked.returncode == 1
    assert [item["report"]["valid"] for item in json.loads(checked.stdout)["items"]] == [True, False]
    assert shell.run("validate", "greeting.json").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "unversal_chat", "-m", "hi"], 4, "did you mean universal_chat?"),
        (["run", "universal_chat", "--input", "{bad"], 2, "--input: The text is not JSON"),
        (["run", "universal_chat", "--input", "[1]"], 2, "--input is no JSON object"),
        (["run", "absent.json"], 2, "absent.json cannot be read: no such file or directory"),
        (["run", "universal_chat", "--param", "model"], 2, "--param model is not written as name=value"),
        (["run", "universal_chat"], 1, '"message" is a required property'),
        (["run", "universal_chat", "-p", "provdier=x", "-m", "hi"], 1, "did you mean 'provider'?"),
        (["run", "universal_chat", "-p", "provider=openai", "-p", "model=m", "-m", "hi"], 1, "set OPENAI_API_KEY"),
        (["cost", "--by", "modle"], 2, "did you mean model?"),
        (["executions", "--status", "done"], 2, "done is no status"),
        (["trace", "last"], 3, "there is no database at "),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_an_exit_code(
    shell: Shell, arguments: list[str], code: int, said: str
) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_provider_without_its_package_says_how_to_install_it(shell: Shell) -> None:
    code = "import sys; sys.modules['langchain_openai'] = None; from api.cli.main import main; main()"
    arguments = ["run", "universal_chat", "-p", "provider=openai", "-p", "model=m", "-m", "hi"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=shell.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'spanloom[openai]'" in done.stderr


def test_a_misspelt_setting_is_found_before_anything_runs(shell: Shell) -> None:
    done = shell.run("run", "universal_chat", "-m", "hi", SPANLOOM_MODLE="offline:extractive")
    assert (done.returncode, done.stderr) == (
        2,
        "spanloom: SPANLOOM_MODLE is no setting; did you mean SPANLOOM_MODEL?\n",
    )


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


def test_the_first_ctrl_c_cancels_the_execution_and_waits_for_it(shell: Shell, waiting: subprocess.Popen[str]) -> None:
    waiting.send_signal(signal.SIGINT)
    done = shell.finish(waiting)
    assert (done.returncode, done.stdout) == (130, "")
    assert "cancelling; press Ctrl-C again to leave at once" in done.stderr
    (record,) = shell.json("executions")["items"]
    assert (record["status"], record["cancel_reason"]) == ("cancelled", "interrupted at the terminal")


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


def make_checkpoint_tables(url: str) -> None:
    """As the first run with checkpoints does."""

    async def make() -> None:
        async with open_checkpoints(url) as checkpoints:
            await checkpoints.setup()

    asyncio.run(make())


def test_migrate_brings_the_schema_and_check_compares_it(shell: Shell) -> None:
    waiting = shell.run("migrate", "--check")
    assert (waiting.returncode, "run `spanloom migrate`" in waiting.stdout) == (1, True)
    assert shell.run("migrate").returncode == 0
    make_checkpoint_tables(f"sqlite:///{shell.folder / 'spanloom.db'}")
    assert shell.run("migrate", "--check").returncode == 0
    with sqlite3.connect(shell.folder / "spanloom.db") as database:
        database.execute("ALTER TABLE executions ADD COLUMN stray TEXT")
    database.close()
    other = shell.run("migrate", "--check")
    assert (other.returncode, "stray" in other.stdout) == (1, True)
    assert "CREATE TABLE executions" in shell.run("migrate", "--sql").stdout


def test_the_doctor_says_what_is_in_force_and_never_a_secret(shell: Shell) -> None:
    done = shell.run(
        "doctor", OPENAI_API_KEY="sk-verysecret", SPANLOOM_DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/n"
    )
    assert done.returncode == 3
    assert "OPENAI_API_KEY=present" in done.stdout
    assert "127.0.0.1:1/n cannot be reached" in done.stdout
    assert "verysecret" not in done.stdout
    assert "hidden" not in done.stdout
    assert shell.json("doctor")["ready"] is True


def test_an_error_of_ours_is_exit_70_without_a_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **named: object) -> int:
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(cost_command, "show_cost", broken)
    done = shell.run("cost")
    assert done.returncode == 70
    assert done.stderr.startswith("spanloom: internal error, RuntimeError: something unforeseen; ")

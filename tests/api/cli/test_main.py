"""The command `spanloom` as a whole: start-up, help, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.exit_codes import EXIT_CODES
from tests.api.cli.shell import SECONDS, SPANLOOM, Shell


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


UNNEEDED = {"alembic", "fastapi", "google", "langchain", "langchain_core", "langgraph", "mako", "pygments"}


def test_commands_that_read_import_neither_langgraph_nor_alembic(shell: Shell, migrated_sqlite_url: str) -> None:
    assert migrated_sqlite_url == f"sqlite:///{shell.folder / 'spanloom.db'}"
    for command in (["executions"], ["cost"], ["keys", "list"]):
        assert _modules_after(*command, folder=shell.folder) & UNNEEDED == set()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "unversal_chat", "-m", "hi"], 4, "Did you mean 'universal_chat'?"),
        (["run", "universal_chat", "--input", "{bad"], 2, "Cannot read --input. The text is not JSON"),
        (["run", "universal_chat", "--input", "[1]"], 2, "--input is not a JSON object."),
        (["run", "absent.json"], 2, "Cannot read absent.json: no such file or directory."),
        (["run", "universal_chat", "--param", "model"], 2, "Cannot read --param 'model'. Write it as NAME=VALUE."),
        (["run", "universal_chat"], 1, '"message" is a required property'),
        (["run", "universal_chat", "-p", "provdier=x", "-m", "hi"], 1, "did you mean 'provider'?"),
        (["run", "universal_chat", "-p", "provider=openai", "-p", "model=m", "-m", "hi"], 1, "set OPENAI_API_KEY"),
        (["cost", "--by", "modle"], 2, "Cannot group by 'modle'. Did you mean 'model'? Valid groups: template, "),
        (["executions", "--status", "done"], 2, "Unknown status 'done'. Valid statuses: queued, "),
        (["trace", "last"], 3, "There is no database at "),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(shell: Shell, arguments: list[str], code: int, said: str) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_misspelt_setting_is_found_before_anything_runs(shell: Shell) -> None:
    done = shell.run("run", "universal_chat", "-m", "hi", SPANLOOM_MODLE="offline:extractive")
    assert (done.returncode, done.stderr) == (
        2,
        "spanloom: Unknown setting SPANLOOM_MODLE. Did you mean SPANLOOM_MODEL?\n",
    )


def test_help_tells_the_exit_codes_and_names_arguments_without_types(shell: Shell) -> None:
    said = shell.run("--help").stdout
    for code, meaning in EXIT_CODES.items():
        assert f"{code:>3}  {meaning}" in said
    usage = shell.run("validate", "--help").stdout
    assert "Usage: spanloom validate [OPTIONS] FILE…\n" in usage
    assert "<list" not in usage


def test_shells_can_complete_commands(shell: Shell) -> None:
    environment = {"PATH": "/usr/bin:/bin", "_SPANLOOM_COMPLETE": "complete_bash"}
    asked = environment | {"COMP_WORDS": "spanloom executions ", "COMP_CWORD": "2"}
    done = subprocess.run(
        [SPANLOOM], cwd=shell.folder, env=asked, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert {"list", "show", "cancel", "resume", "retry"} <= set(done.stdout.split())

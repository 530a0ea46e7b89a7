"""How a command fails: exit codes, and problem documents with `--json`."""

import json

import pytest

from api.cli.commands import cost as cost_command
from tests.api.cli.shell import Shell


def test_an_internal_error_exits_with_70_and_no_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **named: object) -> int:
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(cost_command, "show_cost", broken)
    done = shell.run("cost")
    assert done.returncode == 70
    assert done.stderr.startswith("spanloom: internal error, RuntimeError: something unforeseen; ")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["executions", "show", "last"], 3, "unavailable"),
        (["cost", "--by", "foo"], 2, "wrong_use"),
        (["executions", "--bogus"], 2, "wrong_use"),
        (["executions", "--limit", "x"], 2, "wrong_use"),
    ],
)
def test_with_json_an_error_is_a_problem_document_on_stdout(
    shell: Shell, arguments: list[str], code: int, problem: str
) -> None:
    done = shell.run(*arguments, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (code, "")
    assert (document["type"], document["code"]) == (f"urn:spanloom:problem:{problem}", problem)
    assert document["detail"]


@pytest.mark.parametrize("arguments", [["cost", "--by", "--json"], ["run", "absent", "-m", "--json"]])
def test_json_as_the_value_of_an_option_is_not_the_flag(shell: Shell, arguments: list[str]) -> None:
    done = shell.run(*arguments)
    assert (done.returncode, done.stdout) == (2 if "cost" in arguments else 4, "")
    assert done.stderr.startswith("spanloom: ")

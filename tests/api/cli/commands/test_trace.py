"""`spanloom trace`: the span tree of one execution."""

from tests.api.cli.shell import Shell


def test_the_newest_execution_is_shown_with_its_seal_and_as_json(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    trace = shell.run("trace")
    assert (trace.returncode, trace.stdout) == (0, shell.run("trace", "last").stdout)
    assert trace.stdout.startswith("document_qa  completed")
    assert len(shell.json("trace", "last")["spans"]) == 7


def test_following_an_execution_that_has_ended_shows_its_trace_at_once(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    followed = shell.run("trace", "--follow")
    assert (followed.returncode, followed.stderr.splitlines()[-1]) == (0, "completed")
    assert followed.stdout.startswith("document_qa  completed")

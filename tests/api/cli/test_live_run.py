"""Following a running execution: Ctrl-C, and the answer between progress lines."""

import signal
import subprocess

from tests.api.cli.shell import ANSWER, QUESTION, SECONDS, SPANLOOM, Shell


def test_the_first_ctrl_c_cancels_the_execution_and_waits_for_it(shell: Shell, waiting: subprocess.Popen[str]) -> None:
    waiting.send_signal(signal.SIGINT)
    done = shell.finish(waiting)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Cancelling. Press Ctrl-C again to exit at once." in done.stderr
    (record,) = shell.json("executions")["items"]
    assert (record["status"], record["cancel_reason"]) == ("cancelled", "interrupted at the terminal")


def test_in_merged_output_the_answer_has_its_lines_to_itself(shell: Shell) -> None:
    done = subprocess.run(
        [SPANLOOM, "run", "document_qa", "--param", "path=texts", "--message", QUESTION],
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert ANSWER.rstrip() in lines
    said = ("  ✓ ", "completed in ", "spanloom: No provider's key")
    assert all(line.startswith(said) for line in lines if line != ANSWER.rstrip())

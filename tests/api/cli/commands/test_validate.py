"""`spanloom validate`: a report per file."""

import json

from tests.api.cli.shell import Shell
from tests.api.cli.workflows import GRAPH


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

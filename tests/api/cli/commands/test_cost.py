"""`spanloom cost`: amounts per group."""

from tests.api.cli.shell import Shell


def test_cost_is_grouped_as_asked_and_the_total_is_that_of_the_records(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    (record,) = shell.json("executions")["items"]
    report = shell.json("cost", "--by", "template,day", "--by", "template")
    (row,) = report["rows"]
    assert set(row["group"]) == {"template", "day"}
    assert report["total"]["cost_nano_usd"] == record["cost_nano_usd"] > 0
    shown = shell.run("cost").stdout
    assert "document_qa" in shown
    assert "the offline model's demo price: no real money." in shown


def test_a_period_without_executions_is_said_to_be_empty(shell: Shell) -> None:
    assert shell.ask().returncode == 0
    assert shell.run("cost", "--to", "2020-01-01").stdout == "No executions in this period.\n"

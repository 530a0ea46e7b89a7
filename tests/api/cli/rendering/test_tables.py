"""Tables of executions and of their cost."""

from collections.abc import Sequence

from api.cli.rendering.tables import DemoShare, cost_table, executions_table
from telemetry.reads.cost import CostReport, CostRow, Sums
from tests.api.cli.rendering.samples import START, drawn, record


def test_executions_fit_into_80_columns_with_whole_ids_and_costs() -> None:
    rows = [record(), record(status="failed", error_type="budget_exceeded", workflow_name="universal_chat")]
    rows[1:] = [record(id="01a20b67-faf5-7719-bc23-b6fe37111acf", cost_nano_usd=276_800, model_calls=1), *rows[1:]]
    lines = drawn(executions_table(rows, width=80))
    assert max(map(len, lines)) <= 80
    assert "01a20b67-faf5-7719-bc23-b6fe37111acf" in lines[3]
    assert lines[3].endswith("$0.0002768")


def _report(by: Sequence[str], *rows: CostRow) -> CostReport:
    total = sum((row.sums for row in rows), Sums())
    return CostReport(START, START, tuple(by), list(rows), total, START)


NO_DEMO = DemoShare(0, frozenset())


def test_the_cost_table_is_exact_to_the_nano_dollar_and_totals() -> None:
    rows = [
        CostRow(
            ("rag_chat",),
            Sums(3, 2, 1, model_calls=4, input_tokens=1_000, output_tokens=50, priced_nano_usd=1_234_567_891),
        ),
        CostRow(("document_qa",), Sums(1, 1, model_calls=1, input_tokens=10, output_tokens=5, priced_nano_usd=1)),
    ]
    lines = drawn(cost_table(_report(["template"], *rows), NO_DEMO))
    assert lines[3].split() == ["rag_chat", "3", "1", "(33.3", "%)", "1,000", "50", "$1.234567891", "0"]
    assert lines[4].split() == ["document_qa", "1", "0", "10", "5", "$0.000000001", "0"]
    assert lines[6].split() == ["total", "4", "1", "(25", "%)", "1,010", "55", "$1.234567892", "0"]


def test_cost_by_model_counts_calls_and_leaves_rows_without_any_out() -> None:
    rows = [CostRow(("gpt",), Sums(model_calls=2, priced_nano_usd=7)), CostRow((None,), Sums(1, 1))]
    lines = drawn(cost_table(_report(["model"], *rows), NO_DEMO))
    assert [line.split()[:2] for line in lines[3:]] == [["gpt", "2"], [lines[4]], ["total", "2"]]


def test_demo_money_is_marked_and_said_to_be_no_real_money() -> None:
    rows = [CostRow(("rag_chat",), Sums(1, 1, model_calls=1, priced_nano_usd=66_400))]
    lines = drawn(cost_table(_report(["template"], *rows), DemoShare(66_400, frozenset({("rag_chat",)}))))
    assert "$0.000066400†" in lines[3]
    assert lines[-1] == "† $0.0000664 of it is the offline model's demo price: no real money."


def test_failures_that_callers_caused_are_left_out_of_the_rate_and_have_a_column_where_there_are_any() -> None:
    rows = [
        CostRow(("rag_chat",), Sums(6, 3, 3, failed_by_caller=2)),
        CostRow(("document_qa",), Sums(1, 0, 1, failed_by_caller=1)),
    ]
    lines = drawn(cost_table(_report(["template"], *rows), NO_DEMO))
    assert lines[1].split()[:4] == ["template", "tions", "failed", "errors"]
    assert lines[3].split()[:6] == ["rag_chat", "6", "1", "(25", "%)", "2"]
    assert lines[4].split()[:4] == ["document_qa", "1", "0", "1"]
    assert lines[6].split()[:6] == ["total", "7", "1", "(25", "%)", "3"]


def test_waste_has_a_column_where_there_is_any() -> None:
    rows = [CostRow(("rag_chat",), Sums(1, 1, model_calls=2, priced_nano_usd=9, waste_nano_usd=4))]
    assert drawn(cost_table(_report(["template"], *rows), NO_DEMO))[3].endswith("$0.000000004")

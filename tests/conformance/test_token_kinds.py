"""Documents, tables and files that list the kinds of tokens list exactly the kinds of `engine.usage`."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from api.schemas.executions import SumsAnswer
from engine.tracing import semconv
from engine.usage import TOKEN_FIELDS, Usage
from telemetry.reads.cost import Sums
from telemetry.reads.executions import ExecutionRecord
from telemetry.reads.traces import TraceSpan
from telemetry.store.tables import execution_rollups, execution_rollups_daily, executions, spans
from telemetry.store.views import VIEWS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(list(Usage.model_fields), id="usage"),
        pytest.param([field.name for field in fields(ExecutionRecord)], id="record"),
        pytest.param([field.name for field in fields(TraceSpan)], id="span"),
        pytest.param([field.name for field in fields(Sums)], id="sums"),
        pytest.param(list(SumsAnswer.model_fields), id="sums of the API"),
        pytest.param(re.findall(r"\w+", VIEWS["model_calls"]), id="view"),
        *(pytest.param(table.columns.keys(), id=table.name) for table in (executions, spans)),
        *(pytest.param(table.columns.keys(), id=table.name) for table in (execution_rollups, execution_rollups_daily)),
    ],
)
def test_every_list_of_token_kinds_has_each_kind_once_and_in_order(names: list[str]) -> None:
    assert tuple(name for name in names if name.endswith("_tokens") and name != "total_tokens") == TOKEN_FIELDS


def test_the_collector_counts_each_kind() -> None:
    text = str(yaml.safe_load((ROOT / "otel-collector.yaml").read_text()))
    assert set(re.findall(r"gen_ai\.usage\.[a-z_.]*tokens", text)) == set(semconv.CALL_TOKENS.values())

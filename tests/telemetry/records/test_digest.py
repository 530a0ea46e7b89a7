"""The digest of span rows is the same in any order and on both databases, and it locates what was changed."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from engine.database.database import Database
from telemetry.records.consumer import Records
from telemetry.records.digest import NO_SPANS, Change, Digest, digest_of, digest_of_all, locate
from telemetry.records.rows import SPAN_COLUMNS, span_row
from telemetry.signals.records import Attributes, Batch, SpanRecord
from telemetry.store.bulk import Cell, Row
from telemetry.store.tables import DIGEST_COLUMNS, executions, spans
from tests.telemetry.bookkeeper import Listener


def some_spans() -> list[SpanRecord]:
    """The spans of an execution with calls, a tool and a retrieval."""
    listener = Listener()
    story = listener.begin()
    story.answer()
    story.tool()
    story.answer(wasted=True)
    story.tracker.complete()
    return [signal for signal in listener.signals() if isinstance(signal, SpanRecord)]


ROWS = [span_row(span) for span in some_spans()]
STORED = digest_of_all(ROWS)
CALL = next(place for place, row in enumerate(ROWS) if "model" in row)


def changed(row: Row, **cells: Cell) -> Row:
    """The row with other cells."""
    return tuple(dict(zip(SPAN_COLUMNS, row, strict=True)).__or__(cells).values())


def with_row(place: int, **cells: Cell) -> list[Row]:
    """All rows, one of them with other cells."""
    return [*ROWS[:place], changed(ROWS[place], **cells), *ROWS[place + 1 :]]


@given(seed=st.integers(0, 2**32), parts=st.integers(1, 5))
def test_order_and_parts_do_not_matter(seed: int, parts: int) -> None:
    rows = [*ROWS]
    random.Random(seed).shuffle(rows)
    total = NO_SPANS
    for start in range(parts):
        total = total.plus(digest_of_all(rows[start::parts]))
    assert total == STORED


@pytest.mark.parametrize(
    ("column", "value"),
    [(name, 7) for name in ("attempt", "duration_us", "input_tokens", "cost_nano_usd", "started_nanos")]
    + [(name, "x") for name in ("name", "path", "model", "price_version", "status", "parent_span_id", "error_type")],
)
def test_a_changed_cell_is_located(column: str, value: Cell) -> None:
    before = ROWS[CALL][SPAN_COLUMNS.index(column)]
    change = locate(STORED, with_row(CALL, **{column: value}))
    assert (change.span_id, change.column, change.found) == (ROWS[CALL][SPAN_COLUMNS.index("span_id")], column, value)
    if isinstance(before, int) or column == "status":
        assert change.expected == before


def test_the_same_column_of_several_rows_is_named() -> None:
    rows = [changed(row, trace_id="0" * 32) for row in ROWS]
    assert locate(STORED, rows) == Change(None, "trace_id")


def test_several_columns_of_a_row_name_the_row() -> None:
    change = locate(STORED, with_row(CALL, path="x", node_id="y"))
    assert change == Change(str(ROWS[CALL][SPAN_COLUMNS.index("span_id")]))


def test_rows_that_were_added_renamed_or_removed_are_told_apart() -> None:
    ghost = changed(ROWS[CALL], span_id="00000000000000ff")
    assert locate(STORED, [*ROWS, ghost]) == Change("00000000000000ff", "span_id", "00000000000000ff")
    assert locate(STORED, ROWS[1:]) == Change(None, "span_id")
    assert locate(STORED, with_row(CALL, span_id="00000000000000ff")).column == "span_id"


def test_a_changed_digest_names_no_row() -> None:
    assert locate(STORED.plus(Digest(0, 0, 1, 0)), ROWS) == Change()


def test_swapped_cells_are_seen() -> None:
    row = dict(zip(SPAN_COLUMNS, ROWS[CALL], strict=True))
    swapped = changed(ROWS[CALL], input_tokens=row["output_tokens"], output_tokens=row["input_tokens"])
    assert digest_of(swapped) != digest_of(ROWS[CALL])


_ATTRIBUTES: Sequence[Attributes] = (
    {"a": 1e16, "b": -0.0, "c": 1.0, "d": 0.1, "e": 1e-7, "f": 5e-324, "g": 1.5e300},
    {"a": True, "b": (1 << 63) - 1, "c": "ü€😀", "d": "é"},
    {"a": ["x", "y"], "b": [1.0, 2.5, 3], "c": [], "z": "last", "aa": "first"},
)


async def test_stored_rows_give_the_digest_of_their_record(database: Database) -> None:
    listener = Listener()
    stories = [listener.begin() for _ in _ATTRIBUTES]
    for story in stories:
        story.answer()
        story.tracker.complete()
    signals = listener.signals()
    for story, attributes in zip(stories, _ATTRIBUTES, strict=True):
        signals = [
            replace(one, attributes=one.attributes | attributes)
            if one.identity.execution_id == story.identity.execution_id and isinstance(one, SpanRecord)
            else one
            for one in signals
        ]
    for batch in (signals[::3], signals[1::3], signals, signals[2::3]):
        async with database.begin() as connection:
            await Records().apply(connection, Batch.of(batch))
    async with database.read() as connection:
        for record in (await connection.execute(select(executions))).mappings():
            mine = select(*(spans.c[name] for name in SPAN_COLUMNS)).where(spans.c.execution_id == record["id"])
            rows = [tuple(row) for row in await connection.execute(mine)]
            assert digest_of_all(rows) == Digest(*(record[name] for name in DIGEST_COLUMNS))
            assert record["digest_spans"] == record["spans_stored"] == 3

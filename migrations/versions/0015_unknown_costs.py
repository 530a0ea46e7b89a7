"""What is unknown of a cost, in records and roll-ups: failed calls, calls without usage, and calls cut off by a crash.

Rows that exist are computed again from spans and records. Until now a call without usage counted as unpriced. An older
version that still runs leaves the new columns at their defaults; `spanloom reconcile` shows in which hours.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ROLLUPS = {"execution_rollups": "hour", "execution_rollups_daily": "day"}
_OF_RECORDS = ("unmetered_calls", "failed_calls")
_OF_ROLLUPS = (*_OF_RECORDS, "unfinished_calls", "cost_upper_nano_usd", "unbounded_calls")

_VIEW = """
CREATE VIEW template_analytics AS
SELECT totals.*, ratings.rating_average, COALESCE(ratings.rating_count, 0) AS rating_count
FROM (
    SELECT
        template_id,
        CAST(SUM(executions_completed + executions_failed + executions_cancelled) AS BIGINT) AS total_executions,
        CAST(SUM(executions_completed) AS BIGINT) AS successful_executions,
        CAST(SUM(executions_failed) AS BIGINT) AS failed_executions,
        CAST(SUM(executions_cancelled) AS BIGINT) AS cancelled_executions,
        CAST(SUM(input_tokens + output_tokens) AS BIGINT) AS total_tokens,
        CAST(SUM(cost_nano_usd) AS BIGINT) AS total_cost_nano_usd,
{added}        CAST(
            SUM(duration_sum_ms) / NULLIF(SUM(executions_completed + executions_failed + executions_cancelled), 0)
            AS BIGINT
        ) AS average_duration_ms,
        MAX(last_used_at) AS last_used_at,
        MAX(last_success_at) AS last_success_at,
        MAX(last_failure_at) AS last_failure_at
    FROM execution_rollups_daily
    WHERE template_id <> ''
    GROUP BY template_id
) AS totals
LEFT JOIN (
    SELECT template_id, AVG(CAST(rating AS DOUBLE PRECISION)) AS rating_average, COUNT(*) AS rating_count
    FROM template_ratings
    GROUP BY template_id
) AS ratings ON ratings.template_id = totals.template_id
"""
_ADDED_TO_VIEW = """\
        CAST(SUM(cost_upper_nano_usd) AS BIGINT) AS total_cost_upper_nano_usd,
        CAST(SUM(unfinished_calls) AS BIGINT) AS unfinished_calls,
        CAST(SUM(unbounded_calls) AS BIGINT) AS unbounded_calls,
        CAST(SUM(unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(unmetered_calls) AS BIGINT) AS unmetered_calls,
        CAST(SUM(failed_calls) AS BIGINT) AS failed_calls,
"""

_KEYS = "owner_id, workflow_name, source, template_id, template_version, provider, model"
_EXECUTION_KEYS = (
    "executions.owner_id, executions.workflow_name, executions.workflow_source AS source,"
    " COALESCE(executions.template_id, '') AS template_id,"
    " COALESCE(executions.template_version, 0) AS template_version"
)
_UNMETERED = "spans.cost_nano_usd IS NULL AND (spans.input_tokens IS NULL OR spans.output_tokens IS NULL)"
_FAILED = "spans.error_type IS NOT NULL"


def upgrade() -> None:
    for column in _OF_RECORDS:
        op.add_column("executions", _count(column, sa.Integer()))
    for table in _ROLLUPS:
        for column in _OF_ROLLUPS:
            op.add_column(table, _count(column, sa.BigInteger()))
    op.execute(_RECORDS)
    for table, unit in _ROLLUPS.items():
        op.execute(f"UPDATE {table} SET cost_upper_nano_usd = cost_nano_usd")
        op.execute(_calls(table, unit))
        op.execute(_ends(table, unit))
    op.execute("DROP VIEW template_analytics")
    op.execute(_VIEW.format(added=_ADDED_TO_VIEW))


def downgrade() -> None:
    op.execute("DROP VIEW template_analytics")
    op.execute(_VIEW.format(added=""))
    for table, columns in {"executions": _OF_RECORDS, **dict.fromkeys(_ROLLUPS, _OF_ROLLUPS)}.items():
        op.execute(f"UPDATE {table} SET unpriced_calls = unpriced_calls + unmetered_calls WHERE unmetered_calls > 0")
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def _count(name: str, type_: sa.types.TypeEngine[int]) -> sa.Column[int]:
    return sa.Column(name, type_, nullable=False, server_default=sa.text("0"))


_RECORDS = f"""
UPDATE executions
SET failed_calls = found.failed, unmetered_calls = found.unmetered,
    unpriced_calls = unpriced_calls - found.unmetered
FROM (
    SELECT execution_id, COUNT(*) FILTER (WHERE {_FAILED}) AS failed, COUNT(*) FILTER (WHERE {_UNMETERED}) AS unmetered
    FROM spans
    WHERE kind = 'model' AND ({_FAILED} OR {_UNMETERED})
    GROUP BY execution_id
) AS found
WHERE found.execution_id = executions.id AND executions.completed_at IS NOT NULL
"""


def _calls(table: str, unit: str) -> str:
    """Counts failed and unmetered calls with the provider and model that they were made to."""
    found = f"""
    SELECT {_bucket(unit)} AS bucket, {_EXECUTION_KEYS},
           COALESCE(spans.provider, '') AS provider, COALESCE(spans.model, '') AS model,
           COUNT(*) FILTER (WHERE {_FAILED}) AS failed, COUNT(*) FILTER (WHERE {_UNMETERED}) AS unmetered
    FROM spans JOIN executions ON executions.id = spans.execution_id
    WHERE spans.kind = 'model' AND ({_FAILED} OR {_UNMETERED})
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"""
    changes = (
        "failed_calls = found.failed, unmetered_calls = found.unmetered,"
        " unpriced_calls = unpriced_calls - found.unmetered"
    )
    return _update(table, unit, changes, found)


def _ends(table: str, unit: str) -> str:
    """Counts unfinished calls with the executions themselves: no record says to which model they were made."""
    unbounded = "executions.cost_upper_nano_usd IS NULL"
    found = f"""
    SELECT {_bucket(unit)} AS bucket, {_EXECUTION_KEYS}, '' AS provider, '' AS model,
           CAST(SUM(executions.unfinished_calls) AS BIGINT) AS unfinished,
           CAST(SUM(CASE WHEN {unbounded} THEN executions.unfinished_calls ELSE 0 END) AS BIGINT) AS unbounded,
           CAST(COALESCE(SUM(executions.cost_upper_nano_usd - COALESCE(executions.cost_nano_usd, 0)), 0) AS BIGINT)
               AS upper_nano_usd
    FROM executions
    WHERE executions.unfinished_calls > 0 AND executions.completed_at IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6"""
    changes = (
        "unfinished_calls = found.unfinished, unbounded_calls = found.unbounded,"
        " cost_upper_nano_usd = cost_upper_nano_usd + found.upper_nano_usd"
    )
    return _update(table, unit, changes, found)


def _update(table: str, unit: str, changes: str, found: str) -> str:
    same = " AND ".join(f"found.{key} = {table}.{key}" for key in _KEYS.split(", "))
    return (
        f"UPDATE {table} SET {changes} FROM ({found}\n) AS found\nWHERE found.bucket = {table}.bucket_{unit} AND {same}"
    )


def _bucket(unit: str) -> str:
    """The hour or day in an execution's id: its first 48 bits are milliseconds since the epoch."""
    if op.get_context().dialect.name == "postgresql":
        digits = "substr(replace(executions.id, '-', ''), 1, 12)"
        moment = f"to_timestamp(CAST(CAST('x' || {digits} AS BIT(48)) AS BIGINT) / 1000.0)"
        return f"date_trunc('{unit}', {moment}, 'UTC')"
    places = (*range(1, 9), *range(10, 14))
    digits = " + ".join(
        f"(instr('0123456789abcdef', substr(executions.id, {place}, 1)) - 1) * {16 ** (11 - index)}"
        for index, place in enumerate(places)
    )
    form = "%Y-%m-%d %H:00:00.000000" if unit == "hour" else "%Y-%m-%d 00:00:00.000000"
    return f"strftime('{form}', ({digits}) / 1000, 'unixepoch')"

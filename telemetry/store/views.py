"""The views of the schema, for users who query with SQL. Migrations create them; a test compares both."""

_ENDED = "executions_completed + executions_failed + executions_cancelled"

VIEWS = {
    "template_analytics": f"""
CREATE VIEW template_analytics AS
SELECT totals.*, ratings.rating_average, COALESCE(ratings.rating_count, 0) AS rating_count
FROM (
    SELECT
        template_id,
        CAST(SUM({_ENDED}) AS BIGINT) AS total_executions,
        CAST(SUM(executions_completed) AS BIGINT) AS successful_executions,
        CAST(SUM(executions_failed) AS BIGINT) AS failed_executions,
        CAST(SUM(executions_cancelled) AS BIGINT) AS cancelled_executions,
        CAST(SUM(input_tokens + output_tokens) AS BIGINT) AS total_tokens,
        CAST(SUM(cost_nano_usd) AS BIGINT) AS total_cost_nano_usd,
        CAST(SUM(cost_upper_nano_usd) AS BIGINT) AS total_cost_upper_nano_usd,
        CAST(SUM(unfinished_calls) AS BIGINT) AS unfinished_calls,
        CAST(SUM(unbounded_calls) AS BIGINT) AS unbounded_calls,
        CAST(SUM(unpriced_calls) AS BIGINT) AS unpriced_calls,
        CAST(SUM(unmetered_calls) AS BIGINT) AS unmetered_calls,
        CAST(SUM(failed_calls) AS BIGINT) AS failed_calls,
        CAST(SUM(duration_sum_ms) / NULLIF(SUM({_ENDED}), 0) AS BIGINT) AS average_duration_ms,
        MAX(last_used_at) AS last_used_at,
        MAX(last_success_at) AS last_success_at,
        MAX(last_failure_at) AS last_failure_at
    FROM execution_rollups_daily
    WHERE template_id <> ''
    GROUP BY template_id
) AS totals
LEFT JOIN (
    SELECT template_id, AVG(value) AS rating_average, COUNT(value) AS rating_count
    FROM execution_scores
    WHERE name = 'rating'
    GROUP BY template_id
) AS ratings ON ratings.template_id = totals.template_id
""",
    "node_runs": """
CREATE VIEW node_runs AS
SELECT execution_id, span_id, parent_span_id, owner_id, trace_id, attempt, node_id, node_type, node_attempt, path,
       status, started_at, duration_us, error_type, attributes
FROM spans
WHERE kind = 'node'
""",
    "model_calls": """
CREATE VIEW model_calls AS
SELECT execution_id, span_id, parent_span_id, owner_id, trace_id, attempt, node_id, node_type, node_attempt, path,
       status, started_at, duration_us, provider, model, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, cost_nano_usd, cost_source, price_version, unpriced_reason, service_tier,
       provider_nano_usd, waste, error_type
FROM spans
WHERE kind = 'model'
""",
}
"""View name to the statement that creates it, the same on SQLite and PostgreSQL."""

"""Show in the view of model calls why a call has no price, its service tier, and what the provider says it cost."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_VIEW = """
CREATE VIEW model_calls AS
SELECT execution_id, span_id, parent_span_id, owner_id, trace_id, attempt, node_id, node_type, node_attempt, path,
       status, started_at, duration_us, provider, model, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, cost_nano_usd, cost_source, price_version, {added}waste, error_type
FROM spans
WHERE kind = 'model'
"""


def upgrade() -> None:
    op.execute("DROP VIEW model_calls")
    op.execute(_VIEW.format(added="unpriced_reason, service_tier,\n       provider_nano_usd, "))


def downgrade() -> None:
    op.execute("DROP VIEW model_calls")
    op.execute(_VIEW.format(added=""))

"""The key of a roll-up row names the columns of its table, in their order."""

from telemetry.records.rollups import RollupKey
from telemetry.store.tables import ROLLUP_KEYS


def test_the_key_has_the_columns_of_the_table() -> None:
    assert RollupKey._fields == ("bucket", *ROLLUP_KEYS)

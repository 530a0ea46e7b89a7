"""An end node that fails."""

from engine.graph import JsonObject
from tests.engine.harness import Harness, graph


async def test_an_end_node_may_fail_with_the_authors_message() -> None:
    fail: JsonObject = {"error_type": "not_allowed", "message": "No {{ input.message }} here."}
    run = await Harness().run(graph([{"id": "end", "type": "end", "config": {"fail": fail}}], ["start -> end"]))
    assert (run.result.error_type, run.result.error_message) == ("not_allowed", "No hello here.")

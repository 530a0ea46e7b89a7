"""A workflow graph for the tests of the command line."""

GRAPH = {
    "schema": "spanloom/1",
    "name": "greeting",
    "nodes": [
        {"id": "start", "type": "start"},
        {"id": "polite", "type": "conditional", "config": {"condition": "input.name != ''"}},
        {"id": "end", "type": "end", "config": {"response": "Hello {{ input.name }}"}},
        {"id": "refuse", "type": "end", "config": {"fail": {"error_type": "no_name", "message": "Give a name."}}},
    ],
    "edges": [
        {"source": "start", "target": "polite"},
        {"source": "polite", "target": "end", "when": "true"},
        {"source": "polite", "target": "refuse", "when": "false"},
    ],
    "input_schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}

"""The page of names and filters in expressions and prompts, and the page of stream events."""

from docs.generator.markdown import code, field_docs, page, table
from engine.events import EventType
from engine.expressions.cel import ROOTS
from engine.expressions.prompts import FILTERS
from engine.runtime.names import MEANINGS, NAMES


def expressions_page() -> str:
    """Names, filters, and what is refused."""
    rows = [
        (code(name), kind, "both" if name in ROOTS else "prompts", meaning)
        for name, (kind, meaning) in MEANINGS.items()
        if name in NAMES
    ]
    names = table(("name", "type", "where", "content"), rows)
    filters = table(("filter", "result"), [(code(name), meaning) for name, meaning in FILTERS.items()])
    return page("Expressions and prompts", _INTRO, "## Names", names, "## Filters in prompts", filters, _RULES)


def events_page() -> str:
    """Every type of `ExecutionEvent`."""
    meanings = field_docs(EventType)
    rows = [(code(event.value), "closing" if event.is_closing else "", meanings[event.name]) for event in EventType]
    return page("Stream events", _EVENTS, table(("type", "", "data"), rows))


_INTRO = """Conditions are [CEL](https://cel.dev) expressions that give a boolean. Prompts are text with `{{ path |
filter }}`. Both are parsed when the document is validated, and both see the same names. A path is a name with steps
`.name`, `[0]` or `['key']`."""

_RULES = r"""## Rules

- An expression that cannot be evaluated is an error (`expression_error`), never false: a missing key, a wrong type, a
  bad index. `has(outputs.a) && outputs.a.n > 1` is safe.
- CEL does not add integers to doubles: write `double(x) + 1.0`.
- Refused when validated: `map()`, `+` inside a macro, raw, triple-quoted and bytes literals.
- A prompt is filled in one pass, so inserted text is never read as a prompt. Strings go in as they are, other values as
  compact JSON, null as an empty text.
- A path without a value is `template_error`, unless it has `| default(…)`. `\{{` is a literal `{{`.
- In a JSON value, a string that is exactly one `{{ path }}` keeps the type of its value."""

_EVENTS = """A stream is a sequence of events with `type`, `seq`, `execution_id`, `attempt`, `at` and `data`; events
of nodes also have `node_id`, `node_type`, `path`, `visit` and `node_attempt`. `(attempt, seq)` gives their order.
An attempt begins with `started` or `resumed` and ends with exactly one closing event, which is sent after the
commit that makes it true. Over HTTP the id of an event is `<attempt>-<seq>`; a reader that sends it as
`Last-Event-ID` goes on after it."""

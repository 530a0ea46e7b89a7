"""The dashboard of costs and tokens."""

from dashboards.alerts import HOURLY_COST
from dashboards.panels import Board, Origin, Panel, Query, Row, good_below
from dashboards.queries import (
    ANY,
    ASSUMED,
    CHOSEN,
    RANGE,
    RATE,
    TEMPLATE,
    WASTE,
    at_most,
    calls,
    calls_a_minute,
    count,
    cut_off,
    executed,
    hourly,
    lines,
    number,
    of_spenders,
    or_none,
    or_zero,
    parts_of_input,
    spent,
    tokens,
    tokens_a_minute,
)

NUMBERS = Row(
    "In the selected time",
    [
        number("Cost", "Cost of all model calls.", or_zero(f"sum({spent(RANGE)})"), "currencyUSD"),
        number(
            "Cost per execution",
            "Average over executions that ended.",
            f"sum({spent(RANGE)}) / (sum({executed(ANY, RANGE)}) > 0)",
            "currencyUSD",
        ),
        number(
            "A month at this rate",
            "The cost of the last hour over 30 days.",
            or_zero(f"sum({spent('1h')}) * 24 * 30"),
            "currencyUSD",
        ),
        number(
            "Waste",
            "Cost of calls whose answer was not used: failed, retried or cancelled.",
            or_zero(f"sum({spent(RANGE, metric=WASTE)})"),
            "currencyUSD",
        ),
        number(
            "Tokens",
            "Input and output tokens. Cached tokens are part of the input, reasoning tokens of the output.",
            or_zero(f"sum({tokens(RANGE, 'template')})"),
        ),
        number(
            "At most",
            "The cost with the most that calls cut off by a crash may have cost, as far as that is known.",
            or_zero(f"sum({at_most(RANGE, 'template')})"),
            "currencyUSD",
        ),
    ],
)
SURENESS = Row(
    "How sure the cost is",
    [
        count(
            "Calls without a price",
            "Calls to models that the price list does not know.",
            f"sum({calls('unpriced', RANGE, 'template')})",
            steps=good_below(warning=0.5, bad=0.5),
        ),
        count(
            "Calls without usage",
            "Calls whose provider reported no usage, so that their cost is unknown.",
            f"sum({calls('unmetered', RANGE, 'template')})",
        ),
        count("Calls cut off", "Calls in flight when their process died.", cut_off(RANGE)),
        count(
            "Failed calls",
            "Calls that failed, retried ones included, whatever they cost.",
            f"sum({calls('failed', RANGE, 'template')})",
        ),
        number(
            "At an assumed price",
            "The part of the cost at the catalogue's price although the server is not the provider's. SPANLOOM_PRICES "
            "says what such a server costs.",
            or_zero(f"sum({spent(RANGE, metric=ASSUMED)})"),
            "currencyUSD",
        ),
    ],
)
MONEY = Row(
    "Where the money goes",
    [
        lines(
            "Cost per hour by workflow",
            "Exact, from the books.",
            or_none(of_spenders(hourly("template")), "template"),
            "template",
            "currencyUSD",
            axis="per hour",
            stacked=True,
        ),
        lines(
            "Cost per hour by model",
            "Exact, from the books.",
            or_none(hourly("model"), "model"),
            "model",
            "currencyUSD",
            axis="per hour",
            stacked=True,
        ),
        lines(
            "Cost per hour by provider",
            "From spans; starts at 0 when the process or the Collector restarts.",
            or_none(
                f"sum by (gen_ai_provider_name) (rate(workflow_cost_usd_total{{{CHOSEN}}}[{RATE}])) * 3600",
                "gen_ai_provider_name",
            ),
            "gen_ai_provider_name",
            "currencyUSD",
            axis="per hour",
            stacked=True,
        ),
        lines(
            "Cost within an hour",
            "The series behind the alert on cost spikes.",
            or_none(of_spenders(f"{HOURLY_COST}{{{TEMPLATE}}}"), "template"),
            "template",
            "currencyUSD",
            origin=Origin.RULES,
        ),
    ],
)
TOKENS = Row(
    "Tokens",
    [
        lines(
            "Input and output tokens",
            "Exact, from the books. The two add up to all tokens.",
            or_none(tokens_a_minute("type"), "type"),
            "type",
            axis="tokens per minute",
            stacked=True,
        ),
        Panel(
            "What the input consists of",
            "Input tokens that a provider read from its cache, wrote into it, or neither; they add up to the input.",
            parts_of_input(),
            axis="tokens per minute",
            is_stacked=True,
        ),
        lines(
            "Tokens by workflow",
            "Input and output tokens, exact, from the books.",
            or_none(tokens_a_minute("template"), "template"),
            "template",
            axis="tokens per minute",
            stacked=True,
        ),
        lines(
            "Calls without a price by model",
            "Calls of models that the price list does not know, per minute.",
            or_none(calls_a_minute("unpriced", "model"), "model"),
            "model",
            axis="calls per minute",
        ),
    ],
)
SCORES = Row(
    "What it was worth",
    [
        Panel(
            "Mean scores",
            "By name, workflow and version of its template, over the last 30 days.",
            [
                Query(
                    f"max by (template, version, name) (spanloom_score_mean{{{TEMPLATE}}})",
                    "{{name}} of {{template}} {{version}}",
                )
            ],
            width=24,
            axis="score",
        )
    ],
)
COSTS = Board(
    "cost",
    "cost",
    "The cost of executions, exact to the nano-dollar, since the counters are read from the books. Calls without a "
    "known price are counted separately. The overview has a table by workflow.",
    [NUMBERS, SURENESS, MONEY, TOKENS, SCORES],
)

"""Limits the number, tokens and cost of model calls: reserved before each call, settled after it."""

from dataclasses import dataclass

from engine.errors import BudgetExceeded, LimitExceeded, UnpricedModel
from engine.graph import Limits
from engine.resources import ChatModel, ModelRequest, Price, Prices, Served
from engine.tracing.semconv import Event
from engine.tracing.tracker import WorkflowTracker
from engine.usage import Usage, dollars

WARNING_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most that a call may use; `nano_usd` is 0 without a cost budget."""

    tokens: int
    nano_usd: int

    def plus(self, other: "Reservation") -> "Reservation":
        """Return the sum of both."""
        return Reservation(self.tokens + other.tokens, self.nano_usd + other.nano_usd)


class Budget:
    """The budget of one execution, shared by all of its branches.

    It includes the use of earlier attempts, and the most that calls cut off by a crash may have used.
    """

    def __init__(self, limits: Limits, prices: Prices, tracker: WorkflowTracker) -> None:
        self._limits = limits
        self._prices = prices
        self._tracker = tracker
        used = tracker.totals
        self._calls = used.model_calls
        unfinished = tracker.unfinished
        self._spent = Reservation(
            (used.usage.total_tokens or 0) + unfinished.upper_tokens,
            used.priced_nano_usd + (unfinished.upper_nano_usd or 0),
        )
        self._reserved = Reservation(0, 0)
        """The upper bound of the calls in flight: not spent yet, but not available to other calls."""
        self._warned: set[str] = set()

    def reserve(self, model: ChatModel, request: ModelRequest) -> Reservation:
        """Reserve the most that a call may use, before it is sent.

        Raises `LimitExceeded`, `BudgetExceeded` or `UnpricedModel`.
        """
        if self._calls >= self._limits.max_model_calls:
            raise LimitExceeded(f"the execution has reached its limit of {self._limits.max_model_calls} model calls")
        reservation = self._estimate(model, request)
        reserved = self._reserved.plus(reservation)
        self._check("tokens", reserved.tokens, self._spent.tokens, self._limits.budget_tokens)
        self._check("nano_usd", reserved.nano_usd, self._spent.nano_usd, self._limits.budget_nano_usd)
        self._calls += 1
        self._reserved = reserved
        return reservation

    def settle(self, reservation: Reservation, usage: Usage | None, price: Price) -> None:
        """Replace the reservation by the actual use. If that is unknown, the whole reservation counts as used.

        A call that was refused has no usage and a price of 0, so it counts as no use.
        """
        tokens = usage.total_tokens if usage is not None else 0 if price.nano_usd == 0 else None
        self._reserved = self._reserved.plus(Reservation(-reservation.tokens, -reservation.nano_usd))
        self._spent = self._spent.plus(
            Reservation(
                reservation.tokens if tokens is None else tokens,
                reservation.nano_usd if price.nano_usd is None else price.nano_usd,
            )
        )
        self._warn("tokens", self._spent.tokens, self._limits.budget_tokens)
        self._warn("nano_usd", self._spent.nano_usd, self._limits.budget_nano_usd)

    def left(self) -> tuple[int, int | None]:
        """Return the most that all further calls may use, in tokens and nano-USD: 0 and null without such a budget."""
        tokens, nano_usd = self._limits.budget_tokens, self._limits.budget_nano_usd
        return (
            0 if tokens is None else max(0, tokens - self._spent.tokens),
            None if nano_usd is None else max(0, nano_usd - self._spent.nano_usd),
        )

    def upper(self, model: ChatModel, request: ModelRequest) -> tuple[int, int | None]:
        """Return the most that a call may use, in tokens and in nano-USD; the latter is null for an unknown price."""
        inputs, outputs = model.estimate_input_tokens(request), request.settings.max_tokens
        served = Served(model.server_address, request.settings.service_tier)
        return inputs + outputs, self._prices.upper_nano_usd(model.provider, model.model, inputs, outputs, served)

    def _estimate(self, model: ChatModel, request: ModelRequest) -> Reservation:
        limits = self._limits
        if limits.budget_tokens is None and limits.budget_nano_usd is None:
            return Reservation(0, 0)
        if limits.budget_nano_usd is None:
            return Reservation(model.estimate_input_tokens(request) + request.settings.max_tokens, 0)
        tokens, nano_usd = self.upper(model, request)
        if nano_usd is None:
            raise UnpricedModel
        return Reservation(tokens, nano_usd)

    def _check(self, unit: str, reserved: int, spent: int, limit: int | None) -> None:
        if limit is not None and spent + reserved > limit:
            self._tracker.budget(Event.BUDGET_EXCEEDED, limit=limit, spent=spent, unit=unit)
            raise BudgetExceeded(_exceeded(unit, spent + reserved, limit))

    def _warn(self, unit: str, spent: int, limit: int | None) -> None:
        if limit is not None and unit not in self._warned and spent >= limit * WARNING_SHARE:
            self._warned.add(unit)
            self._tracker.budget(Event.BUDGET_WARNING, limit=limit, spent=spent, unit=unit)


def _exceeded(unit: str, total: int, limit: int) -> str:
    if unit == "tokens":
        return f"Budget exceeded: the next call could bring the execution to {total:,} tokens; the budget is {limit:,}"
    return f"Budget exceeded: the next call could bring the cost to {dollars(total)}; the budget is {dollars(limit)}"

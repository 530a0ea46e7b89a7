"""A receiver of webhooks that keeps books of its own: what arrived, with which id and bytes, and what it answered.

Every call is verified by the `standardwebhooks` library before it is believed.
"""

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from tests.faults.ledger import Ledger
from tests.telemetry.receiver import Call, Reply

TROUBLES = (500, 429, 503, 307)


@dataclass(slots=True)
class WebhookLedger:
    """Decides what the receiver answers, and writes it down first. Give `answer` to the receiver."""

    ledger: Ledger
    random: Random = field(default_factory=lambda: Random(1))
    failing: float = 0.0
    """The share of calls that fail."""
    hanging: float = 0.0
    """The share of calls that are never answered; what the sender does not hear of, counts as failed."""
    is_gone: bool = False
    """Answers 410."""
    answered: Counter[str] = field(default_factory=Counter)

    def answer(self, call: Call) -> Reply:
        """The fact is on the disk before the sender hears of it."""
        reply = self._reply()
        kind = "hangs" if reply.hangs else str(reply.status)
        self.answered[kind] += 1
        self.ledger.write_now(
            what="delivered",
            id=call.id,
            path=call.path,
            body=b64encode(call.body).decode(),
            checksum=crc32(call.body),
            answer=kind,
        )
        return reply

    @property
    def failures(self) -> int:
        """Calls that were not answered with 2xx."""
        return self.answered.total() - self.answered["204"]

    def _reply(self) -> Reply:
        if self.is_gone:
            return Reply(410)
        chance = self.random.random()
        if chance < self.hanging:
            return Reply(hangs=True)
        if chance < self.hanging + self.failing:
            return Reply(self.random.choice(TROUBLES), {"Retry-After": "0"})
        return Reply()

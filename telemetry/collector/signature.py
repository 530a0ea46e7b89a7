"""Signs the signals that leave for the Collector, so that the receiver believes only what this deployment has said.

The signature is an HMAC over everything that the books hold of the signal. It needs no state: a signal that comes back
twice, late, or in another request is still signed, and one that was changed on the way is not. The order of attributes
does not matter, and neither does the part for the trace store.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from functools import cached_property

import orjson

from engine.documents.json_text import to_json
from engine.security.keys import derive_keys
from telemetry.signals.records import Signal, SpanRecord

_PURPOSE = b"spanloom signature of signals"
_BYTES = 16
"""HMAC-SHA256, cut to half its length, as RFC 2104 allows."""


class Signer:
    """Signs with keys made from `SPANLOOM_SECRET_KEY`.

    `keys` are the secret keys, newest first, and are asked for when they are needed: the first one signs, all verify.
    """

    def __init__(self, keys: Callable[[], Sequence[str]]) -> None:
        self._keys = keys

    def sign(self, signal: Signal) -> str:
        """The signature of a signal. Raises `SecretKeyMissing`."""
        return _mac(self._derived[0], _content(signal))

    def has_signed(self, signal: Signal, signature: str | None) -> bool:
        """Whether the signature is one of ours, and of exactly this signal. Raises `SecretKeyMissing`."""
        if signature is None:
            return False
        content, shown = _content(signal), signature.encode()
        return any(hmac.compare_digest(_mac(key, content).encode(), shown) for key in self._derived)

    @cached_property
    def _derived(self) -> list[bytes]:
        return derive_keys(self._keys(), _PURPOSE)


def _mac(key: bytes, content: bytes) -> str:
    return hmac.digest(key, content, hashlib.sha256)[:_BYTES].hex()


def _content(signal: Signal) -> bytes:
    """Everything that the books hold of a signal, in one form: what is equal as a record is equal here."""
    if not isinstance(signal, SpanRecord):
        return to_json(signal, options=orjson.OPT_SORT_KEYS)
    said = (
        signal.identity,
        signal.trace_id,
        signal.span_id,
        signal.parent_span_id,
        signal.kind,
        signal.name,
        signal.status,
        signal.start_ns,
        signal.end_ns,
        signal.fields,
        signal.attributes,
    )
    return to_json(said, options=orjson.OPT_SORT_KEYS)

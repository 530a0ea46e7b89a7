"""Keys for the purposes of `SPANLOOM_SECRET_KEY`, one for each. Imports nothing heavy: the role `ingest` uses it."""

import hashlib
import hmac
from collections.abc import Sequence

from engine.errors import Unavailable


class SecretKeyMissing(Unavailable):
    """There is no key for secrets: set SPANLOOM_SECRET_KEY to a long random text, the same in every process."""


def derive_keys(secret_keys: Sequence[str], purpose: bytes) -> list[bytes]:
    """The keys for this purpose, one of each secret key, in their order. Raises `SecretKeyMissing` if there is none."""
    if not secret_keys:
        raise SecretKeyMissing
    return [derive_key(key, purpose) for key in secret_keys]


def derive_key(secret_key: str, purpose: bytes) -> bytes:
    """A key of 32 bytes for this purpose only: HKDF with SHA-256 and without a salt, whose first block is enough.

    RFC 5869, sections 2.2 and 2.3.
    """
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret_key.encode(), hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)

"""Encrypts secrets for the database: reading them needs a key that is not in it."""

import base64
from collections.abc import Callable, Sequence
from functools import cached_property

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from engine.errors import Unavailable
from engine.security.keys import derive_keys

_PURPOSE = b"spanloom sealing of secrets"


class SealBroken(Unavailable):
    """A kept secret cannot be read: the SPANLOOM_SECRET_KEY that it was sealed with is missing; list it again."""


class Sealer:
    """Seals and opens texts with keys made from `SPANLOOM_SECRET_KEY`.

    `keys` are the secret keys, newest first, and are asked for when they are needed: the first one seals, all open.
    """

    def __init__(self, keys: Callable[[], Sequence[str]]) -> None:
        self._keys = keys

    def seal(self, text: str) -> str:
        """Encrypt a text. Raises `SecretKeyMissing`."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Decrypt a sealed text. Raises `SealBroken` or `SecretKeyMissing`."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise SealBroken from error

    @cached_property
    def _fernet(self) -> MultiFernet:
        return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derive_keys(self._keys(), _PURPOSE)])

"""A key for each purpose, as the standard derives it."""

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.security.keys import derive_key


@pytest.mark.parametrize("secret_key", ["k", "0123456789abcdef" * 4, "ü" * 200])
@pytest.mark.parametrize("purpose", [b"", b"signals", b"x" * 100])
def test_a_key_is_what_hkdf_makes_of_the_secret(secret_key: str, purpose: bytes) -> None:
    standard = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose)
    assert derive_key(secret_key, purpose) == standard.derive(secret_key.encode())


def test_another_purpose_has_another_key() -> None:
    assert derive_key("k", b"one") != derive_key("k", b"two")

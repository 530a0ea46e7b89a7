"""After every test here the books must agree."""

from tests.books_audit import books_agree

__all__ = ["books_agree"]

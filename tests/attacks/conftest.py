"""After every attack the books must agree; attacks that count faults report them as the fault tests do."""

from tests.books_audit import books_agree, books_left_open
from tests.faults.figures import figures

__all__ = ["books_agree", "books_left_open", "figures"]

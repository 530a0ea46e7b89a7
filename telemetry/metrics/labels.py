"""Limits the number of values per label, so that workflow and model names cannot flood Prometheus."""

MAX_LABEL_VALUES = 200
OTHER = "_other"


class LabelCap:
    """Lets the first 200 values of a label through and replaces every later one by `_other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(value)
        return value

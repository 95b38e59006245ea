"""Word error rate: how many words of a text another one gets wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def word_errors(text: str, reference: str) -> int:
    """Words to put in, take out or replace in ``text`` so that it is ``reference``, at least."""
    return _distance(text.split(), reference.split())


def word_error_rate(pairs: Iterable[tuple[str, str]]) -> float:
    """Wrong words over those of the references, for pairs (text, reference).

    Where the references have no word it is 0 if the texts have none either, else 1.
    """
    wrong = words = 0
    for text, reference in pairs:
        wrong += word_errors(text, reference)
        words += len(reference.split())
    return wrong / words if words else float(wrong > 0)


def _distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The edit distance, row by row of its table."""
    row = list(range(len(second) + 1))
    for count, word in enumerate(first, 1):
        before, row = row, [count]
        for place, other in enumerate(second):
            swap = before[place] + (word != other)
            row.append(min(swap, before[place + 1] + 1, row[place] + 1))
    return row[-1]

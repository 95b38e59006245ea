"""Rows that a decoder adds behind its first layers, in the places of a token, beside those put in.

::

    decoder(rows=merged, marks=tokens == 9, later=[rows, rows])     9: the token of images

What makes the rows that are put in makes these as well. A graph is given them for every token,
zeros where there is none: all places are marked then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from awqc.recording.structures import Leaves


@dataclass(frozen=True)
class Later:
    """Which they are.

    Attributes:
        made: of each argument of the decoder, by its path, the path in what makes the rows.
        marks: names of arguments that are true in the places of the token and false elsewhere.
    """

    made: tuple[tuple[str, str], ...] = ()
    marks: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Leaves, result: Leaves, places: Tensor) -> Later:
        """Those that are ``given`` to a decoder of what is in ``result``.

        ``places`` tells which tokens, ``(batch, count)``, stand for rows that are put in.
        """
        count = int(places.sum())
        made = []
        for path, value in given.items():
            if value.is_floating_point() and value.ndim == 2 and len(value) == count:
                same = (key for key, rows in result.items() if _equal(rows, value))
                made += [(path, key) for key in list(same)[:1]]
        marks = [path for path, value in given.items() if _marks(value, places)]
        return cls(tuple(made), tuple(marks)) if made else cls()

    def rows(self, result: Leaves) -> Tensor:
        """Of what makes them, ``(places, all of their widths)``."""
        parts = [result[key] for _, key in self.made]
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts], dim=-1)

    def arguments(self, rows: Tensor, marks: Tensor) -> dict[str, Any]:
        """What the decoder is given of ``rows``, ``(batch, count, all of their widths)``."""
        parts = rows.flatten(0, 1).chunk(len(self.made), dim=-1)
        found: dict[str, Any] = dict.fromkeys(self.marks, marks)
        for (path, _), part in zip(self.made, parts, strict=True):
            name, _, place = path.partition(".")
            if place:
                found.setdefault(name, []).append(part)
            else:
                found[name] = part
        return found


NONE = Later()


def _equal(rows: Tensor, value: Tensor) -> bool:
    same = rows.ndim >= 2 and rows.numel() == value.numel() and rows.shape[-1] == value.shape[-1]
    return same and torch.equal(rows.reshape(value.shape), value)


def _marks(value: Tensor, places: Tensor) -> bool:
    return value.dtype == torch.bool and value.shape == places.shape and torch.equal(value, places)


def put_in_places(rows: Tensor, places: Tensor) -> Tensor:
    """``rows`` in ``places``, ``(batch, count)``, one after another; zeros elsewhere."""
    found = rows.new_zeros(*places.shape, rows.shape[-1])
    found[places] = rows
    return found


class AllMarked(TorchFunctionMode):
    """Indexing by ``marks``, ``(batch, count)``, which are all true, takes the two axes as one.

    A graph has no values by which to index, and needs none here.
    """

    def __init__(self, marks: Tensor) -> None:
        super().__init__()
        self._marks = marks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.to and args[0] is self._marks:
            return self._marks
        if func is Tensor.__getitem__ and self._by_marks(args[1]):
            return args[0].flatten(0, 1)
        if func is Tensor.__setitem__ and self._by_marks(args[1]):
            return args[0].copy_(args[2].reshape(args[0].shape))
        return func(*args, **(kwargs or {}))

    def _by_marks(self, index: Any) -> bool:
        parts = index if isinstance(index, tuple) else (index,)
        return parts[0] is self._marks and all(part == slice(None) for part in parts[1:])

"""Whole numbers that code goes by, such as the size of an image: held while a graph is made.

::

    for height, width in sizes.tolist():          sizes: an input, whose values no trace knows
        rows.append(grid[:height, :width])        ->  numbers that stay what they are

What follows from such numbers alone is computed, and no piece of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from awqc.recording.structures import Leaves

MOST_NUMBERS = 16
"""Of one sample in an input that says how it is to be read; one with more is data, as a mask is."""
MAKERS = (torch.arange, torch.tensor, torch.as_tensor, torch.linspace)
"""What makes tensors of numbers."""
TAKE_NUMBERS = (
    Tensor.__getitem__, Tensor.__setitem__, Tensor.view, Tensor.reshape, Tensor.expand,
    Tensor.repeat, Tensor.split, Tensor.unflatten, torch.reshape, torch.split, torch.unflatten,
)  # fmt: skip
"""What takes sizes and places behind the tensor itself; torch would ask a tensor for its number."""
WHOLE = (torch.int32, torch.int64)


@contextmanager
def known_numbers() -> Iterator[None]:
    """Let what is computed of tensors with values alone have values, also inside of a trace."""
    with _Known():
        yield


def few_numbers(example: Leaves, samples: int) -> tuple[str, ...]:
    """The inputs that have few whole numbers for each of ``samples``."""
    return tuple(
        name
        for name, value in example.items()
        if value.dtype in WHOLE and value.numel() <= MOST_NUMBERS * samples
    )


def numbers_to_hold(
    forward: Callable[[Leaves], object], example: Leaves, samples: int
) -> tuple[str, ...]:
    """The inputs of whole numbers that ``forward`` is not traced without.

    These are of `few_numbers`. There are none where it is traced with no values
    known, or not even with these.
    """
    few = few_numbers(example, samples)
    if not few or _traced(forward, example, ()) or not _traced(forward, example, few):
        return ()
    alone = ((name, tuple(other for other in few if other != name)) for name in few)
    needed = tuple(name for name, others in alone if not _traced(forward, example, others))
    return needed if needed and _traced(forward, example, needed) else few


def _traced(forward: Callable[[Leaves], object], example: Leaves, known: Collection[str]) -> bool:
    """Whether ``forward`` runs where nothing but the inputs ``known`` has values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    given = {
        name: value if name in known else mode.from_tensor(value) for name, value in example.items()
    }
    with torch.no_grad(), mode, known_numbers() if known else nullcontext():
        try:
            forward(given)
        except Exception:  # noqa: BLE001 - whatever code does with values that it does not get
            return False
    return True


class _Known(TorchFunctionMode):
    """Computes outside of all traces what reads tensors with values and nothing else."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        leaves = pytree.tree_leaves((args, given))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        symbols = any(isinstance(leaf, torch.SymInt | torch.SymFloat) for leaf in leaves)
        if symbols or not (all(map(_has_values, tensors)) if tensors else func in MAKERS):
            if func in TAKE_NUMBERS:
                with _disable_current_modes():
                    args = (*args[:1], *pytree.tree_map(_plain, args[1:]))
                    given = pytree.tree_map(_plain, given)
            return func(*args, **given)
        with _disable_current_modes():
            return func(*args, **given)


def _has_values(value: Tensor) -> bool:
    return type(value) is Tensor and not value.is_meta


def _plain(value: Any) -> Any:
    """The number in a tensor that has one, which is whole; any other value as it is."""
    if isinstance(value, slice):
        return slice(*map(_plain, (value.start, value.stop, value.step)))
    if not isinstance(value, Tensor) or value.ndim or value.dtype not in WHOLE:
        return value
    return int(value) if _has_values(value) else value

"""A recorded call as a function of plain tensors, of those only that it reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.recording.calls import SeenCall
from awqc.recording.structures import Leaves, leaves, rebuilt
from awqc.recording.varying import varying_axes

Place = tuple[str, int]
"""An input, by the path of its tensor, and one of its axes."""


@dataclass(frozen=True)
class FlatCall:
    """A call of ``forward`` with tensors at some paths in place of those that were recorded.

    Attributes:
        forward: what is called.
        arguments: as they were recorded.
        outputs: by path what is looked at of the result, and of the arguments after the call.
        unread: tensors whose values do not matter, each axis with its size or with an input's axis
            of the same size; they are made inside.
    """

    forward: Callable[..., Any]
    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    unread: Mapping[str, tuple[int | Place, ...]]

    def __call__(self, given: Leaves) -> Leaves:
        """The outputs by path, for tensors by path."""
        made = {path: self._made(path, sizes, given) for path, sizes in self.unread.items()}
        arguments = rebuilt(self.arguments, {**given, **made})
        result = self.forward(**arguments)
        found = {**leaves(arguments), **leaves(result)}
        return {path: found[path] for path in self.outputs}

    def _made(self, path: str, sizes: Sequence[int | Place], given: Leaves) -> Tensor:
        shape = [s if isinstance(s, int) else given[s[0]].shape[s[1]] for s in sizes]
        recorded = leaves(self.arguments)[path]
        return torch.ones(shape, dtype=recorded.dtype, device=recorded.device)


def flat_call(
    forward: Callable[..., Any],
    arguments: dict[str, Any],
    outputs: Sequence[str],
    examples: Sequence[Leaves],
    held: Collection[str] = (),
) -> tuple[FlatCall, tuple[str, ...]]:
    """The call, and the paths of the inputs whose values it reads.

    ``examples`` are tensors for the same call at different sizes, which tell equal axes. An input
    is read if an output is another where its values are, or there is none; one alone is. Those
    ``held`` keep the values in ``arguments``.
    """
    first = examples[0]
    read = tuple(path for path in first if path not in held)
    if len(first) > 1:
        read = _mattering(FlatCall(forward, arguments, tuple(outputs), {}), first, read)
    axes = varying_axes([SeenCall(dict(each)) for each in examples])
    places: dict[str, Place] = {}
    for path in read:
        for axis, label in axes.get(path, {}).items():
            places.setdefault(label, (path, axis))
    batches = {first[path].shape[0]: (path, 0) for path in reversed(read) if first[path].ndim}
    unread = {
        path: tuple(
            places.get(axes[path][axis], size)
            if axis in axes.get(path, {})
            else (batches.get(size, size) if axis == 0 else size)  # a graph may leave it free
            for axis, size in enumerate(value.shape)
        )
        for path, value in first.items()
        if path not in read and path not in held
    }
    return FlatCall(forward, arguments, tuple(outputs), unread), read


def _mattering(call: FlatCall, given: Leaves, paths: Sequence[str]) -> tuple[str, ...]:
    """Those of ``paths`` by whose values an output changes."""
    with torch.no_grad():
        usual = call(given)
        return tuple(path for path in paths if _matters(call, given, path, usual))


def _matters(call: FlatCall, given: Leaves, path: str, usual: Leaves) -> bool:
    try:
        other = call({**given, path: _others(given[path])})
    except Exception:  # noqa: BLE001 - values that the code cannot take it reads
        return True
    return any(not torch.equal(value, other[name]) for name, value in usual.items())


def _others(value: Tensor) -> Tensor:
    """Other values that an input of this kind may have."""
    if value.is_floating_point():
        return value + torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    if value.dtype == torch.bool:
        return ~value
    largest = int(value.max()) if value.numel() else 0
    return (value + 1) % (largest + 1) if largest else value + 1

"""Let a module return what ``torch.export`` knows, whatever objects it returns."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

UNKNOWN = "not a known type"
"""What ``torch.export`` says of an output that is neither a tensor nor a container."""
_KNOWN = (Tensor, int, float, bool, str, type(None))


def return_plain_outputs(module: nn.Module) -> None:
    """Make ``module`` return a dict for each object that torch has no flattening for.

    A dataclass becomes its fields; any other object, such as a cache, those of its
    attributes that hold tensors.
    """
    forward = module.forward

    def plain_forward(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    plain_forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # functions may have it, which mypy does not know
    module.forward = plain_forward


def plain(value: Any) -> Any:
    """``value`` with dicts in place of objects.

    >>> plain([1, {"a": None}])
    [1, {'a': None}]
    """
    leaves, spec = pytree.tree_flatten(value)
    return pytree.tree_unflatten([_as_dict(leaf) for leaf in leaves], spec)


def _as_dict(leaf: Any) -> Any:
    if isinstance(leaf, _KNOWN):
        return leaf
    if dataclasses.is_dataclass(leaf):
        return {field.name: plain(getattr(leaf, field.name)) for field in dataclasses.fields(leaf)}
    inside = {name: plain(value) for name, value in vars(leaf).items()} if _has_vars(leaf) else {}
    return {name: value for name, value in inside.items() if _holds_tensor(value)}


def _has_vars(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, type)


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))

"""What runs around the parts of a model: tensors that are read while graphs stand in for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def noting_reads(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """By path those parameters and buffers of ``modules`` that an operation reads meanwhile.

    Whatever reads them counts: a forward, a method, or code outside of all modules.
    """
    places: dict[int, dict[str, Tensor]] = {}
    for path, module in modules.items():
        for name, value in own_tensors(module).items():
            places.setdefault(id(value), {})[f"{path}.{name}" if path else name] = value
    with _Reads(places) as reads:
        yield reads.found


class _Reads(TorchDispatchMode):
    def __init__(self, places: Mapping[int, Mapping[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # it is of torch
        self.found: dict[str, Tensor] = {}
        self._places = places

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        for leaf in pytree.tree_leaves((args, given)):
            if isinstance(leaf, Tensor):
                self.found.update(self._places.get(id(leaf), {}))
        return func(*args, **given)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``module`` itself by name, those of the modules inside left out."""
    held = {**module._parameters, **module._buffers}
    return {name: value for name, value in held.items() if value is not None}

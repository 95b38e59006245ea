"""A model in float32 around weights that were loaded in the dtype of their file.

Loading in float32 would copy all of them. Loading in half precision would make the tables that a
model computes for itself (rotary frequencies, scales of embeddings) in half precision as well. So
the weights are loaded as they are, and a second model of the same configuration is made in float32
without weights; it takes them over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def in_float32(loaded: Any) -> Any:
    """A float32 model of the class and configuration of ``loaded``, with its parameters.

    Its parameters are those of ``loaded``, tied as they are there; persistent buffers have the
    values of ``loaded``; other buffers are made anew, in float32.

    Raises:
        RuntimeError: such a model has other parameters than ``loaded``.
    """
    config = deepcopy(loaded.config)
    config.dtype = torch.float32
    with _parameters_on_meta():
        made = type(loaded)(config)
    given = dict(loaded.named_parameters(remove_duplicate=False))
    if given.keys() != dict(made.named_parameters(remove_duplicate=False)).keys():
        raise RuntimeError(f"{type(loaded).__name__} does not make the parameters that it loads")
    for name, parameter in given.items():
        owner, _, leaf = name.rpartition(".")
        made.get_submodule(owner)._parameters[leaf] = parameter
    _copy_buffers(made, loaded.state_dict())
    made.generation_config = getattr(loaded, "generation_config", None)
    return made.eval()


def _copy_buffers(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, buffer in model.named_buffers():
        if name in state:
            buffer.copy_(state[name])


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters that this thread makes get no memory; buffers do."""
    register, thread = nn.Module.register_parameter, threading.get_ident()

    def without_values(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and threading.get_ident() == thread:
            self._parameters[name] = nn.Parameter(param.data.to("meta"), requires_grad=False)

    nn.Module.register_parameter = without_values  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]  # as it was

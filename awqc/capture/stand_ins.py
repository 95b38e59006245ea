"""Parameters without values in place of those in half precision, while torch.export looks.

The graph shall be that of a float32 model; of a parameter it needs shape and dtype alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from awqc.machine.narrow import Narrow
from awqc.program import Program


def has_narrow(module: nn.Module) -> bool:
    """Whether a parameter of ``module`` is kept in half precision."""
    return any(isinstance(parameter, Narrow) for parameter in module.parameters())


@contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Float32 parameters that no memory was given to yet, in place of each `Narrow`."""
    found = _narrow(module)
    made: dict[int, nn.Parameter] = {}
    try:
        for owner, name, value in found:
            if id(value) not in made:
                empty = torch.empty(value.shape, dtype=value.dtype)
                made[id(value)] = nn.Parameter(empty, requires_grad=False)
            owner._parameters[name] = made[id(value)]
        yield
    finally:
        for owner, name, value in found:
            owner._parameters[name] = value


def put_back(module: nn.Module, program: Program) -> None:
    """Let ``program``, captured from ``module``, hold each `Narrow` where its stand-in is."""
    for name, value in module.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        if isinstance(value, Narrow) and _holds(program.graph_module, owner, leaf):
            program.graph_module.get_submodule(owner)._parameters[leaf] = value


def _holds(module: nn.Module, owner: str, leaf: str) -> bool:
    try:
        return leaf in module.get_submodule(owner)._parameters
    except AttributeError:
        return False


def _narrow(module: nn.Module) -> list[tuple[nn.Module, str, Narrow]]:
    return [
        (owner, name, value)
        for owner in module.modules()
        for name, value in owner._parameters.items()
        if isinstance(value, Narrow)
    ]

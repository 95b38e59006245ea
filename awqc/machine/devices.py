"""Running a graph on another device than the one that its program lives on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.utils import _pytree as pytree

from awqc.errors import CalibrationError, UsageError, spelled
from awqc.machine.launched import rank_here, ranks_here
from awqc.machine.narrow import Narrow
from awqc.machine.room import available

T = TypeVar("T")
KINDS = ("cpu", "cuda")
CPU = torch.device("cpu")


def parse_device(name: str) -> torch.device:
    """The device called ``name``, such as ``cpu``, ``cuda`` or ``cuda:1``, if it is here.

    Of several ranks each has a CUDA device of its own, unless one is named by number.

    Raises:
        UsageError: it is no such device, or torch cannot use it; another is never taken instead.
    """
    asked = spelled("device", name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in KINDS:
        raise UsageError(f"{asked}: is unknown; give cpu, cuda, or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"{asked}: this torch ({torch.__version__}) finds no CUDA device; use "
            f"{spelled('device', 'cpu')}. To verify in onnxruntime on CUDA, use "
            f"{spelled('provider', 'cuda')}"
        )
    if device.type == "cuda" and device.index is None and ranks_here() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank_here())))
    if (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise UsageError(
            f"{asked}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0"
        )
    return device


def free_on(device: torch.device) -> int:
    """Bytes that can still be taken where ``device`` keeps its tensors."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available()


@contextmanager
def within_memory(device: torch.device, what: str) -> Iterator[None]:
    """Where ``device`` has no memory left for ``what``, say so.

    Raises:
        CalibrationError: it has none.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise CalibrationError(
            f"{what}: {device} has too little memory: {reason}. Give fewer or shorter samples, "
            f"or use {spelled('device', 'cpu')}"
        ) from error


def moved(value: T, device: torch.device) -> T:
    """``value``, a tree of tensors and other leaves, on ``device``; what is there is not copied."""
    found: T = pytree.tree_map_only(Tensor, lambda leaf: _moved(leaf, device), value)
    return found


def _moved(leaf: Tensor, device: torch.device) -> Tensor:
    if leaf.device == device:
        return leaf
    return leaf.widened_on(device) if isinstance(leaf, Narrow) else leaf.to(device)


def placed(module: GraphModule, device: torch.device) -> GraphModule:
    """A copy of ``module`` that computes on ``device``; where that is the CPU, itself."""
    if device == CPU:
        return module
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    copied = GraphModule(module, graph)
    place(copied, device)
    return copied


def place(module: GraphModule, device: torch.device) -> None:
    """Let ``module`` compute on ``device``: copies of its tensors, and tensors made on the way.

    Tensors that ``module`` shares with others stay where they are; so do modules that it calls.
    """
    if device == CPU:
        return
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    for name, part in module.named_modules():
        if name in called:
            continue
        copies = {
            key: moved(value.detach(), device)
            for key, value in (*part._parameters.items(), *part._buffers.items())
            if value is not None
        }
        part._parameters.clear()
        part._buffers.clear()
        for key, value in copies.items():
            part.register_buffer(key, value)

    def there(leaf: Any) -> Any:
        return device if isinstance(leaf, torch.device) else leaf

    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args, node.kwargs = pytree.tree_map(there, (node.args, node.kwargs))
    module.recompile()

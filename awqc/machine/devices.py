"""Running a graph on another device than the one that its program lives on."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from awqc.errors import UsageError, spelled
from awqc.machine.launched import rank_here, ranks_here

KINDS = ("cpu", "cuda")


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


def place(module: GraphModule, device: torch.device) -> None:
    """Let ``module`` compute on ``device``: copies of its tensors, and tensors made on the way.

    Tensors that ``module`` shares with others stay where they are; so do modules that it calls.
    """
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    for name, part in module.named_modules():
        if name in called:
            continue
        moved = {
            key: value.detach().to(device)
            for key, value in (*part._parameters.items(), *part._buffers.items())
            if value is not None
        }
        part._parameters.clear()
        part._buffers.clear()
        for key, value in moved.items():
            part.register_buffer(key, value)

    def there(leaf: Any) -> Any:
        return device if isinstance(leaf, torch.device) else leaf

    for node in module.graph.nodes:
        if node.op == "call_function":
            node.args, node.kwargs = pytree.tree_map(there, (node.args, node.kwargs))
    module.recompile()

"""Trees of dicts, lists and tuples with tensors in them, in safetensors files; nothing is pickled.

The file's metadata holds the tree as JSON, in which ``{"tensor": "17"}`` stands for a tensor of
the file, ``{"tuple": […]}`` for a tuple and ``{"dict": {…}}`` for a dict. Numbers, texts, flags
and None stand for themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from awqc.artifacts.safetensors_file import Unwritten, has_type, write_safetensors

KEY = "awqc.tree"

Keep = Callable[[Tensor], Tensor]
"""Says where a tensor is to be: it may go to a file, from which it is read when touched."""


def as_it_is(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor


def write_tensor_tree(tree: Any, path: Path) -> None:
    """Write ``tree`` to ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    tensors: dict[str, Unwritten] = {}
    text = json.dumps(_apart(tree, tensors))
    write_safetensors(tensors, path, {KEY: text})


def read_tensor_tree(path: Path, keep: Keep = as_it_is) -> Any:
    """The tree in ``path``, with what ``keep`` gives for each tensor, in memory of its own.

    Raises:
        OSError, SafetensorError: the file cannot be read.
    """
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {})[KEY]
        return _together(json.loads(text), lambda key: keep(file.get_tensor(key).clone()))


def _apart(value: Any, tensors: dict[str, Unwritten]) -> Any:
    """``value`` as JSON; the tensors in it go to ``tensors``."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        if has_type(value.dtype):
            tensors[key] = Unwritten.of(value)
            return {"tensor": key}
        tensors[key] = Unwritten.of(value.detach().contiguous().reshape(-1).view(torch.uint8))
        dtype = str(value.dtype).removeprefix("torch.")
        return {"bytes": key, "dtype": dtype, "shape": list(value.shape)}
    if isinstance(value, dict):
        return {"dict": {name: _apart(each, tensors) for name, each in value.items()}}
    if isinstance(value, list | tuple):
        items = [_apart(each, tensors) for each in value]
        return items if isinstance(value, list) else {"tuple": items}
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _together(content: Any, read: Callable[[str], Tensor]) -> Any:
    """What `_apart` made ``content`` of."""
    if isinstance(content, list):
        return [_together(each, read) for each in content]
    if not isinstance(content, dict):
        return content
    if "tensor" in content:
        return read(content["tensor"])
    if "bytes" in content:
        flat = read(content["bytes"]).view(getattr(torch, content["dtype"]))
        return flat.reshape(content["shape"])
    if "tuple" in content:
        return tuple(_together(each, read) for each in content["tuple"])
    return {name: _together(each, read) for name, each in content["dict"].items()}

"""The example inputs of an archive: a pickle, of which only data is read."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from awqc.pt2.failures import NotAllowedError
from awqc.pt2.members import INPUTS, Members

Example = tuple[tuple[Any, ...], dict[str, Any]]
_SCALARS = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.Size)
_TENSORS = (Tensor, nn.Parameter)


def read_example(members: Members) -> Example | None:
    """Positional and keyword arguments, or None where the archive has none.

    Raises:
        NotAllowedError: there is something else in it than tensors, numbers, text and plain
            containers of them.
    """
    content = members.read(INPUTS)
    if not content:
        return None
    try:
        example = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise NotAllowedError(f"a pickled object ({INPUTS})") from error
    if not _is_plain(example) or not _is_call(example):
        raise NotAllowedError(f"example inputs that are no plain arguments ({INPUTS})")
    args, kwargs = example
    return args, kwargs


def _is_call(value: Any) -> bool:
    return (
        type(value) is tuple
        and [type(part) for part in value] == [tuple, dict]
        and all(type(key) is str for key in value[1])
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.keys())) and all(map(_is_plain, value.values()))
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return type(value) in _SCALARS or type(value) in _TENSORS

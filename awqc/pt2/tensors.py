"""Tensors of an archive, from the raw bytes that it stores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde import schema

from awqc.pt2.failures import DamagedError, NotAllowedError
from awqc.pt2.fields import read_record
from awqc.pt2.members import FOLDERS, Members


def read_tensors(members: Members, folder: str) -> dict[str, Tensor]:
    """The tensors of ``folder`` (``weights`` or ``constants``), by the names that they have.

    Those that are stored once share their memory, as they did when they were saved.

    Raises:
        NotAllowedError: some are pickled objects, or no dense tensors.
        DamagedError: bytes are missing.
    """
    config = f"data/{folder}/model_{folder}_config.json"
    payloads = read_record(schema.PayloadConfig, members.read(config), config).config
    storages: dict[str, Tensor] = {}
    tensors = {}
    for name, payload in payloads.items():
        if not payload.path_name.startswith(FOLDERS[folder]) or payload.tensor_meta is None:
            raise NotAllowedError(f"{name}, which is no tensor")
        member = f"data/{folder}/{payload.path_name}"
        if member not in storages:
            storages[member] = members.read_raw(member)
        tensors[name] = _tensor(storages[member], payload, name)
    return tensors


def _tensor(storage: Tensor, payload: schema.PayloadMeta, name: str) -> Tensor:
    """``storage``, uint8, seen with the shape, strides and dtype that ``payload`` tells."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    meta = payload.tensor_meta
    assert meta is not None
    if meta.layout != schema.Layout.Strided or meta.dtype not in _SERIALIZE_TO_TORCH_DTYPE:
        raise NotAllowedError(f"{name}, which is no dense tensor")
    shape = [_size(size, name) for size in meta.sizes]
    strides = [_size(stride, name) for stride in meta.strides]
    offset = _size(meta.storage_offset, name)
    dtype = _SERIALIZE_TO_TORCH_DTYPE[meta.dtype]
    if len(shape) != len(strides) or len(shape) > 64:
        raise DamagedError(f"{name} has {len(shape)} axes and {len(strides)} strides")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last + 1) * dtype.itemsize > storage.numel():
        raise DamagedError(
            f"{name} needs {(last + 1) * dtype.itemsize} bytes, {storage.numel()} are stored"
        )
    if not math.prod(shape):
        storage, offset = storage.new_empty(0), 0
    whole = storage.untyped_storage()
    tensor = torch.empty(0, dtype=dtype).set_(whole, offset, shape, strides)  # type: ignore[call-overload]  # torch's stubs lack this form
    if meta.device.type != "cpu":
        tensor = tensor.to(torch.device(meta.device.type, meta.device.index or 0))
    return nn.Parameter(tensor, meta.requires_grad) if payload.is_param else tensor


def _size(size: Any, name: str) -> int:
    if size.type != "as_int" or size.as_int < 0:
        raise DamagedError(f"{name} has a size that is no number")
    return int(size.as_int)

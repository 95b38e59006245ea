"""Codes of a few bits in bytes, as ggml lays them: codes that share a byte lie some way apart."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_lanes(codes: Tensor, lanes: int, width: int) -> Tensor:
    """Codes ``(rows, columns)`` as uint8 ``(rows, columns / lanes)``, ``8 / lanes`` bits a code.

    Each ``lanes * width`` codes take ``width`` bytes: code ``lane * width + i`` lies in byte ``i``,
    the first lane in its lowest bits.
    """
    bits = 8 // lanes
    parts = codes.to(torch.uint8).reshape(codes.shape[0], -1, lanes, width)
    packed = parts[:, :, 0].clone()
    for lane in range(1, lanes):
        packed |= parts[:, :, lane] << (lane * bits)
    return packed.flatten(1)


def unpack_lanes(packed: Tensor, lanes: int, width: int) -> Tensor:
    """Undo `pack_lanes`: uint8 ``(rows, columns)``."""
    bits = 8 // lanes
    parts = packed.reshape(packed.shape[0], -1, 1, width)
    found = [(parts >> (lane * bits)) & (2**bits - 1) for lane in range(lanes)]
    return torch.cat(found, dim=2).flatten(1)

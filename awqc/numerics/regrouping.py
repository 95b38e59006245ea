"""A weight of whole numbers in smaller groups and wider codes, value for value."""

from __future__ import annotations

from awqc.numerics.formats.base import QuantizedWeight
from awqc.numerics.formats.int_grid import Bits, IntGrid, zero_points
from awqc.numerics.packing import pack


def regrouped(weight: QuantizedWeight, group_size: int, bits: Bits) -> QuantizedWeight:
    """``weight``, an `IntGrid`, in groups of ``group_size``, which divides its own.

    Codes take ``bits``, no fewer than before. Where symmetric, they move up with the midpoint.
    """
    form = weight.format
    assert isinstance(form, IntGrid)
    wider = IntGrid(bits, group_size, form.symmetric)
    lift = wider.midpoint - form.midpoint if form.symmetric else 0
    packed = weight.tensors["packed"]
    if lift or wider.storage_bits != form.storage_bits:
        packed = pack(weight.codes + lift, wider.storage_bits).contiguous()
    # A ragged last group is shorter: its repeats are cut off.
    groups, repeats = weight.columns // group_size, form.width(weight.columns) // group_size
    held = {"scale": weight.tensors["scale"]}
    if not form.symmetric:
        held["zero_point"] = zero_points(weight)
    spread = {r: t.repeat_interleave(repeats, dim=1)[:, :groups] for r, t in held.items()}
    return QuantizedWeight(wider, {"packed": packed, **spread}, weight.shape)

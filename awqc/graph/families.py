"""Families of operations: calls that several rooms treat alike, each listed once.

What belongs to one rule alone is listed at that rule.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten
Family = tuple[Any, ...]

CONVOLUTIONS: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv2d.default: 2,
    aten.conv3d.default: 3,
    aten.conv1d.padding: 1,
    aten.conv2d.padding: 2,
    aten.conv3d.padding: 3,
}
"""Convolutions, and their number of spatial axes."""

TRANSPOSED: dict[Any, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}
"""Convolutions whose weight is ``(in_channels, …)``, and their number of spatial axes."""

MATMULS: Family = (aten.matmul.default, aten.bmm.default, aten.mm.default)
"""``sum_k a[m, k] b[k, n]``."""

RECURRENT: Family = (
    aten.lstm.input, aten.lstm.data, aten.gru.input, aten.gru.data,
    aten.rnn_tanh.input, aten.rnn_tanh.data, aten.rnn_relu.input, aten.rnn_relu.data,
)  # fmt: skip
"""Recurrent networks; the list of their weights is their argument ``params``."""

MULTIPLIED: Family = (aten.mul.Tensor, aten.mul.Scalar)
DIVIDED: Family = (aten.div.Tensor, aten.div.Scalar)

COPIES: Family = (
    aten.alias.default, aten.clone.default, aten.detach.default, aten.detach_.default,
    aten.lift_fresh_copy.default,
)  # fmt: skip
"""The operand itself, perhaps laid out otherwise in memory."""

SQUEEZES: Family = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
"""The operand without axes of size 1; itself where those that are named have another size."""

CASTS: Family = (
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default,
    aten.type_as.default,
)  # fmt: skip
"""Calls that change dtype or device, and may change nothing."""

DROPOUTS: Family = (
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)  # fmt: skip
"""``(input, p, train)``: the operand itself in inference."""

RESHAPES: Family = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)
TRANSPOSES: Family = (aten.permute.default, aten.transpose.int, aten.mT.default)
JOINS: Family = (aten.cat.default, aten.stack.default)
"""Lists of operands, end to end or along an axis of their own."""

SPLITS_BY_SIZES: Family = (aten.split.sizes, aten.split_with_sizes.default)
SPLITS: Family = (*SPLITS_BY_SIZES, aten.split.Tensor, aten.chunk.default)
"""Calls that cut an operand along ``dim`` into a list."""

REARRANGED: Family = (
    *RESHAPES, *TRANSPOSES, aten.expand.default, aten.flatten.using_ints, aten.index.Tensor,
    aten.index_select.default, aten.movedim.int, aten.repeat.default, aten.select.int,
    aten.slice.Tensor, aten.squeeze.dim, aten.squeeze.dims, aten.unflatten.int,
    aten.unsqueeze.default,
)  # fmt: skip
"""Elements of one operand in other places, and nothing else."""

PADS: Family = (aten.constant_pad_nd.default, aten.pad.default)

ZEROS: Family = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
FILLS: dict[Any, str] = {
    aten.full.default: "fill_value",
    aten.full_like.default: "fill_value",
    aten.new_full.default: "fill_value",
    aten.fill.Scalar: "value",
    aten.scalar_tensor.default: "s",
}
"""Calls that make a tensor of one number, and what they call that number."""

REDUCTIONS: Family = (
    aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
)  # fmt: skip
"""Sums, means and extremes over the axes ``dim``, which ``keepdim`` keeps."""

LAYER_NORMS: Family = (aten.layer_norm.default, aten.rms_norm.default)
"""Norms over trailing axes, which their weight has."""

CHANNEL_NORMS: Family = (aten.group_norm.default, aten.instance_norm.default)
"""Norms whose weight is along axis 1."""

ASSERTS: tuple[Any, ...] = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten._assert_async.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
    torch._assert,
    torch._check,
)
"""Checks of shapes, dtypes and values."""

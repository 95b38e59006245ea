"""Recurrent cells, one step each, in terms of products, which can be scaled, and activations.

Source: torch.nn.RNNCell, GRUCell and LSTMCell, whose order of gates these keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

aten = torch.ops.aten
Weight = Tensor | None


def _gru(x: Tensor, h: Tensor, wx: Tensor, wh: Tensor, bx: Weight = None, bh: Weight = None) -> Any:
    """Gates: reset, update, new."""
    reset, update, new = linear(x, wx, bx).chunk(3, -1)
    h_reset, h_update, h_new = linear(h, wh, bh).chunk(3, -1)
    made = torch.tanh(new + torch.sigmoid(reset + h_reset) * h_new)
    return made + torch.sigmoid(update + h_update) * (h - made)


def _lstm(
    x: Tensor, state: Any, wx: Tensor, wh: Tensor, bx: Weight = None, bh: Weight = None
) -> Any:
    """Gates: input, forget, cell, output."""
    h, c = state
    into, forget, cell, out = (linear(x, wx, bx) + linear(h, wh, bh)).chunk(4, -1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(into) * torch.tanh(cell)
    return [torch.sigmoid(out) * torch.tanh(c), c]


def _plain(activation: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def cell(
        x: Tensor, h: Tensor, wx: Tensor, wh: Tensor, bx: Weight = None, bh: Weight = None
    ) -> Any:
        return activation(linear(x, wx, bx) + linear(h, wh, bh))

    return cell


CELLS: dict[Any, Callable[..., Any]] = {
    aten.gru_cell.default: _gru,
    aten.lstm_cell.default: _lstm,
    aten.rnn_tanh_cell.default: _plain(torch.tanh),
    aten.rnn_relu_cell.default: _plain(torch.relu),
}

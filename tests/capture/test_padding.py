"""An encoder of torch's own is captured with the padding that a call of it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from tests.tiny import encoder_layer, relative


class Encoder(nn.Module):
    def __init__(self, *, norm: bool = False, nested: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        last = nn.LayerNorm(32) if norm else None
        if last is not None:
            nn.init.normal_(last.bias)
        layer = encoder_layer(False)
        assert isinstance(layer, nn.TransformerEncoderLayer)
        self.encoder = nn.TransformerEncoder(layer, 1, last, enable_nested_tensor=nested)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        h: Tensor = self.encoder(x, src_key_padding_mask=padding)
        return h


HIDDEN = {
    "nothing": [],
    "the end": [(0, 4), (1, 3), (1, 4)],
    "the start": [(0, 0), (1, 0), (1, 1)],
    "either side": [(0, 4), (1, 0)],
    "the middle": [(0, 2)],
}


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"nested": False}], ids=str)
def test_padded_positions_are_those_of_a_call(options: dict[str, bool]) -> None:
    module = Encoder(**options).eval()
    x, padding = torch.randn(2, 5, 32), torch.zeros(2, 5, dtype=torch.bool)
    program = capture_module(module, (x, padding))
    assert program.inputs[0].shape[0] == "batch"
    for where, places in HIDDEN.items():
        mask = padding.clone()
        for row, column in places:
            mask[row, column] = True
        with torch.no_grad():
            wanted = module(x, mask)
        (found,) = program.run({"x": x, "padding": mask})
        assert relative(found, wanted) < 1e-5, where
    assert "forward" not in vars(module.encoder), "the caller's own encoder was changed"

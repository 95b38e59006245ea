"""Sizes that a model's code makes tensors of stay free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.capture.sizes_in_tensors import SizesInTensors


class Relative(nn.Module):
    """Each point of an image beside where it lies in it, and how large that is."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        high, wide = x.shape[1:]
        down = torch.linspace(0.5, high - 0.5, high, dtype=x.dtype, device=x.device)
        right = torch.linspace(0, 1, steps=wide)
        sizes = torch.as_tensor([(high, wide), (high // 2, 7)], dtype=torch.long, device=x.device)
        share = torch.tensor([high / 2, 1.0, torch.tensor(3.0)]) + x.new_tensor([wide, 2, 3])
        return x * (down[:, None] + right), sizes, share


def test_axes_stay_free_and_graphs_hold_at_other_sizes() -> None:
    model = Relative()
    axes = {"x": {0: "b", 1: "h", 2: "w"}}
    program = capture_module(model, (torch.randn(2, 6, 11),), dynamic=axes)
    assert [spec.shape for spec in program.inputs] == [("b", "h", "w")]
    for shape in ((2, 6, 11), (1, 7, 7), (3, 5, 1)):
        x = torch.randn(shape)
        made, wanted = program.run({"x": x}), model(x)
        assert [each.dtype for each in made] == [each.dtype for each in wanted]
        for found, right in zip(made, wanted, strict=True):
            torch.testing.assert_close(found, right)


def test_what_is_made_of_plain_numbers_is_torchs_own() -> None:
    with SizesInTensors():
        assert torch.tensor([1, 2.5]).tolist() == [1.0, 2.5]
        assert torch.linspace(0, 4, 5, dtype=torch.int32).tolist() == [0, 1, 2, 3, 4]
        assert torch.tensor(3).new_tensor([4]).tolist() == [4]

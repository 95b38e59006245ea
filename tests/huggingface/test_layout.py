from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awqc.huggingface.layout import ROUNDED, ByRows, Layout, find_layout

FORMS = {
    "same": lambda w: w,
    "transposed": lambda w: w.t(),
    "shifted": lambda w: 1 + w,
    "multiplied": lambda w: 5.5 * w,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("original", [torch.randn(8, 8), torch.zeros(6, 6), torch.ones(4, 4)])
def test_a_layout_is_found_and_undone(form: str, original: Tensor) -> None:
    value = FORMS[form](original)
    layout = find_layout(original, ByRows.of(value))
    assert layout is not None
    torch.testing.assert_close(layout.to_program(original), value)
    torch.testing.assert_close(layout.to_original(value), original)


def test_a_quantized_square_matrix_is_not_taken_for_its_transpose() -> None:
    weight = torch.randn(64, 64)
    rounded = weight + 0.3 * torch.randn(64, 64)
    assert find_layout(weight, ByRows.of(rounded), ROUNDED) == Layout()
    assert find_layout(weight.t(), ByRows.of(rounded), ROUNDED) == Layout(transposed=True)


def test_an_unrelated_tensor_has_no_layout() -> None:
    assert find_layout(torch.randn(8, 8), ByRows.of(torch.randn(8, 8))) is None
    assert find_layout(torch.randn(8, 8), ByRows.of(torch.randn(4, 8))) is None

"""Values that are made up after an example's, kind by kind."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.data.drawing import describe_drawing, draw_like

INF = float("inf")


def drawn(example: Tensor, count: int = 64, rows: int | None = None) -> Tensor:
    shape = [count, *example.shape[1:]] if example.ndim else []
    made = draw_like(example, shape, rows, torch.Generator().manual_seed(0))
    assert made.dtype == example.dtype
    assert list(made.shape) == shape
    return made


@pytest.mark.parametrize("value", [True, False])
def test_flags_that_are_alike_stay_so_but_for_a_few(value: bool) -> None:
    made = drawn(torch.full((2, 9), value))
    assert 0.01 < float((made != value).float().mean()) < 0.1
    assert bool((made[:, 0] == value).all())


@pytest.mark.parametrize(
    "example",
    [
        torch.tensor([[False, False, True], [False, True, True]]),
        torch.tensor([[1, 1, 0], [1, 1, 1]]),
        torch.tensor([[0.0, -INF, -INF], [0.0, 0.0, -INF]]),
    ],
    ids=["flags", "integers", "infinities"],
)
def test_of_a_mask_whole_rows_are_drawn(example: Tensor) -> None:
    kinds = {tuple(row) for row in drawn(example).tolist()}
    assert kinds == {tuple(row) for row in example.tolist()}


def test_other_values_stay_in_the_range_and_spread_of_the_example() -> None:
    integers = drawn(torch.tensor([[3, 7], [5, 4]]))
    assert (int(integers.min()), int(integers.max())) == (3, 7)
    assert int(drawn(torch.tensor([[3, 7]]), rows=100).max()) > 7
    floats = drawn(50 + 3 * torch.randn(8, 16), 500)
    assert abs(float(floats.mean()) - 50) < 1
    assert abs(float(floats.std()) - 3) < 0.5
    assert float(drawn(torch.zeros(2, 8)).std()) > 0.5
    assert drawn(torch.zeros(2, 3, dtype=torch.complex64)).is_complex()
    assert drawn(torch.zeros(2, 0, dtype=torch.long)).numel() == 0
    assert drawn(torch.tensor(True)).item() in (True, False)


def test_what_was_done_is_said_by_input() -> None:
    example = {"x": torch.randn(2, 3), "pad": torch.zeros(2, 3, dtype=torch.bool)}
    said = describe_drawing(example, {})
    assert said == "x: normal, spread as the example; pad: flags as in the example, few turned over"


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor, pad: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, key_padding_mask=pad, need_weights=False)[0]
        return out


@pytest.mark.parametrize("given", ["example", "inputs"])
def test_a_model_with_a_padding_mask_compiles_without_data(given: str) -> None:
    model = Masked().eval()
    example = (torch.randn(2, 7, 32), torch.zeros(2, 7, dtype=torch.bool))
    specs = ["x=float32[batch,7,32]", "pad=bool[batch,7]"]
    result = awqc.compile(
        model, example if given == "example" else None,
        inputs=specs if given == "inputs" else (), bits=8, effort="fast", formats="onnx",
        provider="cpu",
    )  # fmt: skip
    pad = torch.zeros(2, 7, dtype=torch.bool)
    pad[1, 4:] = True
    with torch.no_grad():
        wanted = model(example[0], pad).numpy()
    session = onnxruntime.InferenceSession(str(result.folder / "model.onnx"))
    (found,) = session.run(None, {"x": example[0].numpy(), "pad": pad.numpy()})
    assert abs(found - wanted).max() < 0.05 * abs(wanted).max()

"""Where a scale may not go: refused, with a reason that names what stops it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.channels.proving import by_weight, prove


class Net(nn.Module):
    """``b(middle(a(x)))`` with whatever stands between."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8, bias=False)
        self.c = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = self.middle(self, self.a(x))
        if isinstance(made, tuple):
            return (self.b(made[0]), *made[1:])
        out: Tensor = self.b(made)
        return out


ILLEGAL: dict[str, tuple[Callable[[Net, Tensor], Tensor | tuple[Tensor, ...]], str]] = {
    "gelu": (lambda n, y: functional.gelu(y), "gelu"),
    "silu": (lambda n, y: functional.silu(y), "silu"),
    "sigmoid": (lambda n, y: y.sigmoid(), "sigmoid"),
    "tanh": (lambda n, y: y.tanh(), "tanh"),
    "softmax": (lambda n, y: y.softmax(-1), "softmax"),
    "relu6": (lambda n, y: functional.relu6(y), "relu6"),
    "clamp at one": (lambda n, y: y.clamp(max=1.0), "clamps at"),
    "add a constant": (lambda n, y: y + 1, "adds the constant 1"),
    "square that is read": (lambda n, y: y * y + y, "squares it"),
    "power": (lambda n, y: y**3, "pow with 3"),
    "reciprocal": (lambda n, y: 1 / y, "reciprocal"),
    "cast to int": (lambda n, y: y.to(torch.int64).double(), "holds torch.int64"),
    "round": (lambda n, y: y.round(), "round"),
    "read by a norm": (lambda n, y: y + n.norm(y), "normalises it"),
    "model output": (lambda n, y: (y, y), "an output of the model"),
    "sorted": (lambda n, y: y.sort(-1)[0], "which would change nothing: sort ties them"),
    "zeros": (lambda n, y: torch.zeros_like(y), "it is the same whatever it is scaled by"),
    "compared": (lambda n, y: y * (y > 1), "compares it with 1"),
    "selects a constant": (lambda n, y: torch.where(y > 0, y, 1.0), "selects the constant 1"),
    "padded with ones": (
        lambda n, y: functional.pad(y, (0, 0, 1, 0), value=1.0),
        "pads with a constant",
    ),
    "gated by itself": (lambda n, y: y * torch.sigmoid(y), "sigmoid"),
    "cosine": (lambda n, y: y.cos(), "cos"),
    "product over tokens": (lambda n, y: y * y.prod(-2, keepdim=True), "prod"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_fold_is_refused(name: str) -> None:
    middle, reason = ILLEGAL[name]
    torch.manual_seed(0)
    site = by_weight(prove(Net(middle), torch.randn(2, 3, 8)))["b.weight"]
    assert site.status == "refused"
    assert reason in site.reason, site.reason


def test_model_input_is_named() -> None:
    site = prove(nn.Linear(8, 8), torch.randn(2, 8))[0]
    assert site.status == "refused"
    assert "the model's own input" in site.reason


def test_residual_of_a_post_norm_encoder_is_named() -> None:
    layers = [
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu") for _ in range(2)
    ]
    sites = by_weight(prove(nn.Sequential(*layers), torch.randn(2, 4, 8)))
    reason = sites["0.linear1.weight"].reason
    assert "normalises it" in reason
    assert "residual add" in reason


def test_weight_that_is_added_elsewhere_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x)) + self.a.weight.sigmoid().sum(0)
            return out

    # The sum is computed once, from a copy; the weight itself stays free to change.
    assert by_weight(prove(Shared(), torch.randn(2, 8)))["b.weight"].status == "foldable"


def test_overlapping_weights_are_refused() -> None:
    class Views(nn.Module):
        first: Tensor
        second: Tensor

        def __init__(self) -> None:
            super().__init__()
            whole = torch.randn(16, 8)
            self.register_buffer("first", whole[:8])
            self.register_buffer("second", whole[8:])

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(functional.linear(x, self.first), self.second)

    sites = prove(Views(), torch.randn(2, 8))
    assert all(site.status == "refused" or "shares" not in site.reason for site in sites)


def test_products_along_different_axes_are_sites_of_their_own() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.channels = nn.Conv1d(8, 4, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.tokens(x), self.channels(x)

    sites = by_weight(prove(Mixer(), torch.randn(2, 8, 8)))
    for weight in ("tokens.weight", "channels.weight"):
        assert [reader.weight for reader in sites[weight].readers] == [weight]

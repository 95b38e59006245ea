"""Operations that a scale passes: each between two products, folded, and the output unmoved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.channels.proving import by_weight, prove

Middle = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """``b(middle(a(x)))`` on ``(batch, 6, 8)``, with more tensors for what stands between."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
        self.vector = nn.Parameter(torch.rand(8) + 0.5)
        self.matrix = nn.Parameter(torch.randn(8, 8))
        self.stack = nn.Parameter(torch.randn(8, 8, 8))
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.middle(self, self.a(x)))
        return out


def _channels_first(operation: Callable[[Tensor], Tensor]) -> Middle:
    return lambda net, y: operation(y.transpose(1, 2)).transpose(1, 2)


def _patches(net: Net, y: Tensor) -> Tensor:
    """Patches of three, cut out and added up again."""
    cut = functional.unfold(y.transpose(1, 2)[..., None], (3, 1), padding=(1, 0))
    whole = functional.fold(cut, (6, 1), (3, 1), padding=(1, 0))
    return whole[..., 0].transpose(1, 2)


def _resized(net: Net, y: Tensor) -> Tensor:
    image = y.transpose(1, 2).unflatten(2, (2, 3))
    smaller = functional.interpolate(image, (2, 2), mode="bicubic", antialias=True)
    return smaller.flatten(2).transpose(1, 2)


def _added_at(net: Net, y: Tensor) -> Tensor:
    places = torch.zeros_like(y, dtype=torch.int64)
    return torch.zeros_like(y).scatter_reduce(1, places, y, "amax")


FOLDING: dict[str, Middle] = {
    "addcmul": lambda n, y: torch.addcmul(y, y, n.vector, value=2),
    "addcdiv": lambda n, y: torch.addcdiv(y, y, n.vector),
    "lerp by a number": lambda n, y: torch.lerp(y, n.c(y), 0.3),
    "lerp by a tensor": lambda n, y: torch.lerp(y, n.c(y), n.vector),
    "einsum of three": lambda n, y: torch.einsum("btd,de,ef->btf", y, n.matrix, n.matrix),
    "einsum with dots": lambda n, y: torch.einsum("...d,ed->...e", y, n.matrix),
    "baddbmm": lambda n, y: torch.baddbmm(y, torch.ones(2, 6, 6, dtype=y.dtype), y, beta=0.5),
    "bilinear": lambda n, y: functional.bilinear(y, y, n.stack),
    "hstack": lambda n, y: torch.hstack([y, y]),
    "take_along_dim": lambda n, y: torch.take_along_dim(y, torch.tensor([[[0], [2]]]), 1),
    "sort": lambda n, y: y.sort(1)[0],
    "topk": lambda n, y: y.topk(2, 1)[0],
    "cummax": lambda n, y: y.cummax(1)[0],
    "median": lambda n, y: y.median(1, keepdim=True)[0] + y,
    "kthvalue": lambda n, y: y.kthvalue(2, 1)[0][:, None] + y,
    "comparison": lambda n, y: torch.where(y > n.c(y), y, 0),
    "maximum under another name": lambda n, y: torch.max(y, n.c(y)),
    "clamp by a tensor": lambda n, y: y.clamp(min=torch.zeros((), dtype=y.dtype)),
    "patches": _patches,
    "resized": _resized,
    "tril": lambda n, y: y.tril(),
    "diag_embed": lambda n, y: torch.diag_embed(y).sum(-1),
    "padded with minus infinity": lambda n, y: torch.relu(
        functional.pad(y, (0, 0, 1, 0), value=-torch.inf)
    ),
    "rot90": lambda n, y: y.rot90(2, (1, 2)).flip(-1),
    "scatter of zeros": lambda n, y: y.scatter(1, torch.zeros(2, 1, 8, dtype=torch.int64), 0.0),
    "index_fill": lambda n, y: y.index_fill(1, torch.tensor([1]), 0.0),
    "scatter_reduce": _added_at,
    "nansum": lambda n, y: y.nansum(1, keepdim=True) + y,
    "nan_to_num": lambda n, y: torch.nan_to_num(y),
    "standard deviation": lambda n, y: y.std(1, keepdim=True) + y,
    "norm": lambda n, y: y.norm(dim=1, keepdim=True) + y,
    "adaptive max pool": _channels_first(lambda y: functional.adaptive_max_pool1d(y, 3)),
    "linear interpolation": _channels_first(
        lambda y: functional.interpolate(y, scale_factor=2, mode="linear")
    ),
    "copysign": lambda n, y: torch.copysign(y, n.c(y)),
    "hypot": lambda n, y: torch.hypot(y, n.c(y)),
    "minus zero": lambda n, y: y - 0.0,
    "group norm without a weight": _channels_first(lambda y: functional.group_norm(y, 2)),
    "instance norm without a weight": _channels_first(functional.instance_norm),
}


@pytest.mark.parametrize("name", FOLDING)
def test_a_scale_passes(name: str) -> None:
    site = by_weight(prove(Net(FOLDING[name]), torch.randn(2, 6, 8)))["b.weight"]
    assert (site.status, site.scales) == ("foldable", 8), site.reason


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (lambda n, y: y.scatter(1, torch.zeros(2, 1, 8, dtype=torch.int64), 1.0), "constant 1"),
        (lambda n, y: y.norm(p=0, dim=1, keepdim=True) + y, "counts what is not zero"),
        (
            lambda n, y: y.scatter_reduce(1, torch.zeros(2, 1, 8, dtype=torch.int64), y, "prod"),
            "multiplies scaled values",
        ),
    ],
)
def test_a_scale_does_not_pass(middle: Middle, reason: str) -> None:
    site = by_weight(prove(Net(middle), torch.randn(2, 6, 8)))["b.weight"]
    assert site.status == "refused"
    assert reason in site.reason

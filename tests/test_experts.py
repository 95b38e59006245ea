"""Mixtures of experts written by hand, in the forms that people write them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.compiler import compile as compile_model
from tests.channels.proving import by_weight, prove

EXPERTS, WIDTH, INNER = 4, 32, 64


class Stacked(nn.Module):
    """All experts on all tokens, their matrices in two stacks."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.norm, self.router = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * INNER) / 6)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).reshape(-1, WIDTH)
        chosen, places = self.router(tokens).softmax(-1).topk(2, -1)
        shares = torch.zeros(len(tokens), EXPERTS, dtype=x.dtype).scatter(1, places, chosen)
        if self.form == "einsum":
            gate, up = torch.einsum("td,edh->eth", tokens, self.up).chunk(2, -1)
            made = torch.einsum("eth,ehd->etd", functional.silu(gate) * up, self.down)
        else:
            rows = tokens[None] if self.form == "broadcast" else tokens.expand(EXPERTS, -1, -1)
            gate, up = torch.matmul(rows, self.up).chunk(2, -1)
            made = torch.matmul(functional.silu(gate) * up, self.down)
        return x + (made * shares.t()[..., None]).sum(0).view(x.shape)


class Routed(nn.Module):
    """Each expert on the tokens sent to it; nothing is sent to the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.router = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, INNER) for _ in range(EXPERTS))
        self.downs = nn.ModuleList(nn.Linear(INNER, WIDTH) for _ in range(EXPERTS))
        with torch.no_grad():
            self.router.bias[-1] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x)
        chosen, places = self.router(tokens).softmax(-1).topk(2, -1)
        out = torch.zeros_like(tokens)
        for index, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            row, slot = torch.where(places == index)
            made = down(torch.relu(up(tokens[row]))) * chosen[row, slot, None]
            out = out.index_add(0, row, made)
        return x + out


@pytest.mark.parametrize("form", ["batched", "broadcast", "einsum"])
def test_each_matrix_of_a_stack_has_scales_of_its_own(form: str) -> None:
    sites = by_weight(prove(Stacked(form), torch.randn(2, 6, WIDTH)))
    assert sites["router.weight"].status == "foldable"
    assert set(sites["router.weight"].edits) >= {"norm.weight", "router.weight"}
    downs = [site for name, site in sites.items() if name.startswith("down.")]
    assert [(site.status, site.scales) for site in downs] == [("foldable", INNER)] * EXPERTS


def test_an_expert_that_saw_no_token_is_said() -> None:
    compiled = compile_model(
        Routed(), (torch.randn(9, WIDTH),), num_samples=4, formats=("onnx",), effort="fast"
    )
    sites = {site["name"]: site for site in compiled.report["sites"]}
    assert [sites[f"downs.{index}"]["status"] for index in range(EXPERTS)] == [
        "folded", "folded", "folded", "refused"
    ]
    assert sites["downs.3"]["reason"].startswith("no calibration data reached it")
    assert compiled.report["verify"]["export_exact"]["rel"] < 1e-5

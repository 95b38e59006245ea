"""Mixtures of experts written by hand, in the forms that people write them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.nn import functional

from awqc.capture.module import capture_module
from awqc.compiler import compile_graph as compile_model
from awqc.executor.run import Run
from awqc.graph.linears import find_linears
from awqc.graph.row_masks import selecting_masks
from awqc.passes.calibrate import Calibrate
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.insert_observers import InsertObservers
from awqc.program import Program
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


class Masked(nn.Module):
    """Every expert on all tokens, masked where they are another's; the last has none."""

    def __init__(self, cut: str = "relu") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.norm, self.router = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 2 * INNER) for _ in range(EXPERTS))
        self.downs = nn.ModuleList(nn.Linear(INNER, WIDTH) for _ in range(EXPERTS))
        with torch.no_grad():
            self.router.bias[-1] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x)
        place = self.router(tokens).argmax(-1, keepdim=True)
        hidden = self.activate(self.pick(self.ups, tokens, place))
        return x + self.pick(self.downs, hidden, place)

    @staticmethod
    def pick(experts: nn.ModuleList, x: Tensor, place: Tensor) -> Tensor:
        """For each row what the expert at ``place`` makes of it."""
        parts = [torch.where(place == e, expert(x), 0.0) for e, expert in enumerate(experts)]
        return functools.reduce(torch.add, parts)

    def activate(self, hidden: Tensor) -> Tensor:
        """Half of the width, from rows alone."""
        if self.cut == "glu":
            gate, up = hidden.chunk(2, -1)
            return functional.silu(gate) * up
        return torch.relu(hidden[..., ::2]) - hidden[..., 1::2]


class Picked(nn.Module):
    """For each token the matrices of its experts, read out of stacks by an index."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.norm, self.router = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH) / 6)
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 8)
        self.up_bias = nn.Parameter(torch.randn(EXPERTS, 2 * INNER) / 6)
        self.down_bias = nn.Parameter(torch.randn(EXPERTS, WIDTH) / 6)
        with torch.no_grad():
            self.router.bias[-1] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x)
        shares, ids = self.router(tokens).softmax(-1).topk(2, -1)
        if self.form == "summed":
            return x + self.summed(tokens, ids, shares)
        made: Tensor = getattr(self, self.form)(tokens, ids)
        weighted: Tensor = made.view(len(x), 2, WIDTH) * shares[..., None]
        return x + weighted.sum(1)

    def activate(self, hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, -1)
        return functional.silu(gate) * up

    def einsum(self, tokens: Tensor, ids: Tensor) -> Tensor:
        hidden = self.activate(torch.einsum("ti,taoi->tao", tokens, self.up[ids]))
        made: Tensor = torch.einsum("tao,taio->tai", hidden, self.down[ids])
        return made

    def summed(self, tokens: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
        hidden = self.activate(torch.einsum("...i,...aoi->...ao", tokens, self.up[ids]))
        made: Tensor = torch.einsum("tao,taio,ta->ti", hidden, self.down[ids], shares)
        return made

    def rows(self, tokens: Tensor, ids: Tensor) -> Tensor:
        ids, tokens = ids.reshape(-1), tokens.repeat_interleave(2, 0)
        hidden = torch.bmm(self.up[ids], tokens.unsqueeze(-1)).squeeze(-1) + self.up_bias[ids]
        made = torch.bmm(self.down[ids], self.activate(hidden).unsqueeze(-1)).squeeze(-1)
        return made + self.down_bias[ids]

    def transposed(self, tokens: Tensor, ids: Tensor) -> Tensor:
        ids, tokens = ids.flatten(), tokens.repeat_interleave(2, 0)
        up = self.up.index_select(0, ids).transpose(1, 2)
        hidden = self.activate(torch.bmm(tokens.unsqueeze(1), up).squeeze(1))
        return torch.matmul(hidden.unsqueeze(1), self.down[ids].permute(0, 2, 1)).squeeze(1)

    def broadcast(self, tokens: Tensor, ids: Tensor) -> Tensor:
        hidden = torch.matmul(tokens[:, None, None], self.up[ids].mT).squeeze(2)
        made = torch.matmul(self.activate(hidden).unsqueeze(2), self.down[ids].transpose(-1, -2))
        return made.squeeze(-2)

    def from_the_end(self, tokens: Tensor, ids: Tensor) -> Tensor:
        return self.einsum(tokens, ids - EXPERTS)


class Sorted(Routed):
    """Tokens sorted by expert, and cut into as many rows as each expert got."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x)
        ids = self.router(tokens).argmax(-1)
        order = ids.argsort()
        counts = functional.one_hot(ids, EXPERTS).sum(0).tolist()
        hidden = torch.relu(self.apply_each(self.ups, tokens[order], counts))
        made = self.apply_each(self.downs, hidden, counts)
        return x + torch.zeros_like(x).index_add(0, order, made)

    @staticmethod
    def apply_each(experts: nn.ModuleList, rows: Tensor, counts: list[int]) -> Tensor:
        parts = rows.split(counts)
        return torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True)])


class Adapters(nn.Module):
    """A matrix for each sequence, and a sum over the matrices that a token picked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.adapter = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 6)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / 8)

    def forward(self, x: Tensor, which: Tensor, ids: Tensor) -> Tensor:
        hidden = torch.relu(torch.bmm(self.norm(x), self.adapter[which]))
        return x + torch.einsum("bsi,bakio->bskao", hidden, self.down[ids]).sum(2).sum(2)


def canonical(model: nn.Module, example: Tensor) -> Program:
    program = capture_module(model.eval(), (example,))
    Canonicalize().apply(program)
    return program


@pytest.mark.parametrize("cut", ["glu", "slice"])
def test_each_masked_expert_has_scales_of_its_own(cut: str) -> None:
    sites = by_weight(prove(Masked(cut), torch.randn(2, 6, WIDTH)))
    assert set(sites["router.weight"].edits) >= {"norm.weight", "ups.0.weight", "ups.3.weight"}
    downs = [sites[f"downs.{index}.weight"] for index in range(EXPERTS)]
    assert [(site.status, len(site.readers)) for site in downs] == [("foldable", 1)] * EXPERTS


def test_only_rows_that_an_expert_is_right_for_are_observed() -> None:
    model, example = Masked("glu").eval(), torch.randn(40, WIDTH)
    program = canonical(model, example)
    run = Run(tuple({"x": torch.randn(40, WIDTH)} for _ in range(2)))
    InsertObservers().apply(program)
    changes = Calibrate().apply(program, run)
    routed = torch.zeros(EXPERTS, dtype=torch.int64)
    for batch in run.batches:
        routed += model.router(model.norm(batch["x"])).argmax(-1).bincount(minlength=EXPERTS)
    seen = {linear.weight_name: linear.node.name for linear in find_linears(program.graph)}
    statistics = program.findings.statistics
    for kind in ("ups", "downs"):
        found = [statistics.get(seen[f"{kind}.{e}.weight"]) for e in range(EXPERTS)]
        assert [0 if s is None else s.tokens for s in found] == routed.tolist()
    assert statistics[seen["router.weight"]].tokens == 80
    assert sum(change.refused for change in changes) == 2


def test_rows_outside_a_mask_do_not_matter() -> None:
    program = canonical(Masked("glu"), torch.randn(40, WIDTH))
    masks = selecting_masks(program.graph)
    assert sum(node.target is torch.ops.aten.linear.default for node in masks) == 2 * EXPERTS
    inputs = [program.example["x"]]
    values: dict[Node, Any] = {}

    class Run(Interpreter):
        """Keeps every value, or spoils the rows of ``spoiled`` that should not matter."""

        spoiled: Node | None = None

        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if n is self.spoiled:
                return torch.where(values[masks[n]], value, 1e3)
            return values.setdefault(n, value)

    run = Run(program.graph_module)
    (wanted,) = run.run(*inputs)
    for node in masks:
        if isinstance(node.meta["val"], Tensor):
            run.spoiled = node
            assert torch.equal(run.run(*inputs)[0], wanted), node.name


@pytest.mark.parametrize(
    "form", ["einsum", "summed", "rows", "transposed", "broadcast", "from_the_end"]
)
def test_matrices_that_an_index_picks_have_scales_of_their_own(form: str) -> None:
    sites = by_weight(prove(Picked(form), torch.randn(6, WIDTH)))
    assert set(sites["router.weight"].edits) >= {"norm.weight", "router.weight"}
    downs = [sites[f"down.{index}"] for index in range(EXPERTS)]
    assert [(site.status, site.scales) for site in downs] == [("foldable", INNER)] * EXPERTS
    assert all(f"up.{index}" in site.edits for index, site in enumerate(downs))


def test_experts_of_tokens_that_are_sorted_and_cut_have_scales_of_their_own() -> None:
    sites = by_weight(prove(Sorted(), torch.randn(40, WIDTH)))
    assert set(sites["router.weight"].edits) >= {"norm.weight", "ups.0.weight", "ups.3.weight"}
    downs = [sites[f"downs.{index}.weight"] for index in range(EXPERTS)]
    assert [(site.status, site.scales) for site in downs] == [("foldable", INNER)] * EXPERTS


def test_picked_matrices_are_quantized_and_exported() -> None:
    compiled = compile_model(
        Picked("rows"), (torch.randn(9, WIDTH),), num_samples=4, formats=("onnx",), effort="fast"
    )
    report = compiled.report
    quantized = {name for site in report["sites"] for name in site["linears"]}
    assert quantized == {"router.weight", *(f"{s}.{e}" for s in ("up", "down") for e in range(4))}
    assert report["skipped"] == []
    assert report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-5
    (unseen,) = [site for site in report["sites"] if site["name"].startswith("down.3")]
    assert unseen["reason"].startswith("no calibration data reached it")


def test_a_matrix_a_sequence_and_a_sum_over_matrices() -> None:
    example = (
        torch.randn(3, 5, WIDTH),
        torch.tensor([2, 0, 2]),
        torch.randint(0, EXPERTS, (3, 2, 1)),
    )
    program = capture_module(Adapters().eval(), example)
    (wanted,) = program.run(program.example)
    Canonicalize().apply(program)
    (made,) = program.run(program.example)
    assert {linear.weight_name for linear in find_linears(program.graph)} == {
        f"{stack}.{index}" for stack in ("adapter", "down") for index in range(EXPERTS)
    }
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["batched", "broadcast", "einsum"])
def test_each_matrix_of_a_stack_has_scales_of_its_own(form: str) -> None:
    sites = by_weight(prove(Stacked(form), torch.randn(2, 6, WIDTH)))
    assert sites["router.weight"].status == "foldable"
    assert set(sites["router.weight"].edits) >= {"norm.weight", "router.weight"}
    downs = [site for name, site in sites.items() if name.startswith("down.")]
    assert [(site.status, site.scales) for site in downs] == [("foldable", INNER)] * EXPERTS


@pytest.mark.parametrize("model", [Routed, Masked])
def test_an_expert_that_saw_no_token_is_said(model: type[nn.Module]) -> None:
    compiled = compile_model(
        model(), (torch.randn(9, WIDTH),), num_samples=4, formats=("onnx",), effort="fast"
    )
    sites = {site["name"]: site for site in compiled.report["sites"]}
    assert [sites[f"downs.{index}"]["status"] for index in range(EXPERTS)] == [
        "folded",
        "folded",
        "folded",
        "refused",
    ]
    assert sites["downs.3"]["reason"].startswith("no calibration data reached it")
    assert compiled.report["verify"]["comparisons"][0]["exact"]["rel"] < 1e-5

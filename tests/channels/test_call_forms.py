"""A call is the same call however its arguments are written: by place, by name, in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional

from awqc.capture.module import capture_module
from awqc.channels.analysis import find_sites
from awqc.export.onnx import export_onnx
from awqc.graph.dump import dump
from awqc.graph.ops import given_arguments
from awqc.graph.sites import Site
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.convert_dtype import ConvertDtype
from awqc.program import Program
from tests.tiny import captured_once

WIDTH = 8


class Net(nn.Module):
    """``b(middle(a(x)))``; ``w`` is what a middle may use."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.b = nn.Linear(WIDTH, WIDTH, bias=False)
        self.w = nn.Parameter(torch.randn(WIDTH))
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(WIDTH)
        self.batch_norm = nn.BatchNorm1d(WIDTH)
        self.group_norm = nn.GroupNorm(2, WIDTH)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.middle(self, self.a(x)))
        return out


def attend(net: Net, y: Tensor) -> Tensor:
    q, k, v = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in (y, y * net.w, y.relu()))
    mask = torch.zeros(y.shape[1], y.shape[1])
    made = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5)
    return made.transpose(1, 2).flatten(2)


def along_channels(layer: Callable[[Net], nn.Module]) -> Callable[[Net, Tensor], Tensor]:
    def middle(net: Net, y: Tensor) -> Tensor:
        made: Tensor = layer(net)(y.transpose(1, 2))
        return made.transpose(1, 2)

    return middle


MIDDLES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "linear": lambda n, y: functional.linear(y, n.b.weight, n.w),
    "addmm": lambda n, y: torch.addmm(n.w, y[:, 0], n.b.weight)[:, None] + y,
    "addcmul": lambda n, y: torch.addcmul(y, y, n.w, value=2.0),
    "sum": lambda n, y: y - y.relu().sum(1, keepdim=True),
    "mean": lambda n, y: y - y.mean(dim=(1,), keepdim=True),
    "largest": lambda n, y: y - y.amax(1, keepdim=True),
    "norm": lambda n, y: y - torch.linalg.vector_norm(y, dim=1, keepdim=True),
    "softmax": lambda n, y: y * y.softmax(-1),
    "cat": lambda n, y: torch.cat([y[..., 2:], y[..., :2]], dim=-1),
    "stack": lambda n, y: torch.stack([y, y.relu()], dim=1).sum(1),
    "split": lambda n, y: torch.cat(y.split(4, dim=-1)[::-1], -1),
    "chunk": lambda n, y: torch.cat(y.chunk(2, dim=-1)[::-1], -1),
    "glu": lambda n, y: functional.glu(torch.cat([y, y], 1), dim=1),
    "transpose": lambda n, y: y.transpose(1, 2).relu().permute(0, 2, 1),
    "slice": lambda n, y: torch.cat([y[:, :, ::2], y[:, :, 1::2]], -1),
    "pad": lambda n, y: functional.pad(y, (1, 0))[..., 1:],
    "pad with ones": lambda n, y: functional.pad(y, (1, 0), value=1.0)[..., 1:],
    "repeat": lambda n, y: y.repeat_interleave(2, dim=-1)[..., ::2],
    "sort": lambda n, y: y.sort(dim=1, descending=True)[0],
    "topk": lambda n, y: y.topk(2, dim=1)[0],
    "cumsum": lambda n, y: y.cumsum(dim=1),
    "gather": lambda n, y: y.gather(1, torch.zeros(2, 3, WIDTH, dtype=torch.int64)),
    "clamp": lambda n, y: y.clamp(min=0.0) + y.clamp(max=1.0),
    "where": lambda n, y: torch.where(y > 0, y, 0.0) + torch.where(y > 1, 0.0, y),
    "masked": lambda n, y: y.masked_fill(y < 0, 0.0),
    "power": lambda n, y: (y.relu() ** 2 + y.square()) * n.w,
    "gate": lambda n, y: y * n.w / (1 + n.w.abs()),
    "cast": lambda n, y: y.to(torch.float16).to(torch.float32),
    "dropout": lambda n, y: functional.dropout(y, 0.5, training=False),
    "layer norm": lambda n, y: n.norm(y),
    "layer norm without weight": lambda n, y: functional.layer_norm(y, (WIDTH,), eps=1e-3),
    "rms norm without weight": lambda n, y: functional.rms_norm(y, (WIDTH,), eps=1e-3),
    "group norm": along_channels(lambda n: n.group_norm),
    "batch norm": along_channels(lambda n: n.batch_norm),
    "convolution": along_channels(lambda n: n.conv),
    "attention": attend,
    "matmul": lambda n, y: y @ (y.transpose(1, 2) @ y),
    "einsum": lambda n, y: torch.einsum("bij,kj->bik", y, n.b.weight),
    "einsum of activations": lambda n, y: torch.einsum("bij,bkj->bki", y, y.relu()).mT @ y,
}


@captured_once
def program(name: str) -> Program:
    torch.manual_seed(0)
    return capture_module(Net(MIDDLES[name]).eval(), (torch.randn(2, 3, WIDTH),))


def by_name(program: Program) -> Program:
    """``program`` with every argument of every operation by name, the last one first."""
    count = 0
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            given = dict(reversed(given_arguments(node).items()))
            node.args, node.kwargs = (), given
            count += len(given)
    assert count > 4
    program.graph_module.recompile()
    return program


def described(sites: list[Site]) -> list[Any]:
    return [
        (site.name, site.value, site.channels, site.scales, site.status, site.reason,
         [(r.node, r.weight, r.classes.tolist()) for r in site.readers],
         {name: labels.tolist() for name, labels in site.edits.items()})
        for site in sites
    ]  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
def test_the_sites_and_their_labels_are_the_same(name: str) -> None:
    wanted = described(find_sites(program(name)))
    assert described(find_sites(by_name(program(name)))) == wanted
    assert wanted


@pytest.mark.parametrize("name", MIDDLES)
def test_the_canonical_graph_is_the_same(name: str) -> None:
    texts = []
    for given in (program(name), by_name(program(name))):
        Canonicalize().apply(given)
        given.tidy()
        texts.append((dump(given.graph_module), described(find_sites(given))))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["attention", "power", "layer norm", "cast"])
def test_half_precision_is_the_same(name: str) -> None:
    outputs = []
    for given in (program(name), by_name(program(name))):
        ConvertDtype("float16").apply(given)
        given.tidy()
        made = [n for n in given.graph.nodes if isinstance(n.meta.get("val"), Tensor)]
        outputs.append([(str(n.target), n.meta["val"].dtype) for n in made])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", ["linear", "split", "layer norm", "attention"])
def test_the_onnx_model_is_the_same(name: str, tmp_path: Path) -> None:
    made: list[bytes] = []
    for given in (program(name), by_name(program(name))):
        path = tmp_path / f"{len(made)}.onnx"
        export_onnx(given, path)
        made.append(onnx.load(path).SerializeToString(deterministic=True))
    assert made[0] == made[1]

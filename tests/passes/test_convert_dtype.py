"""Half precision where it is safe, float32 where it overflows or cancels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.compiler import compile_graph
from awqc.errors import UsageError
from awqc.passes.convert_dtype import ConvertDtype
from awqc.passes.pipeline import DEFAULT
from awqc.program import Program
from tests.tiny import capture, inputs, model, relative, run

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# A few roundings of 5e-4 and 4e-3.
TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2}


def converted(program: Program, dtype: str) -> tuple[Tensor, ...]:
    ConvertDtype(dtype).apply(program)
    program.tidy()
    program.graph.lint()
    return program.run(program.example)


@pytest.mark.parametrize("dtype", list(HALVES))
@pytest.mark.parametrize("spec", ["canonicalize", DEFAULT])
def test_outputs_stay_near(program: Program, dtype: str, spec: str) -> None:
    run(program, spec)
    before = program.run(program.example)[0]
    (now,) = converted(program, dtype)
    assert now.dtype == HALVES[dtype]
    assert relative(now, before) < TOLERANCE[dtype]
    assert all(s.dtype == HALVES[dtype] for s in program.inputs)
    for node in program.graph.nodes:
        if node.op == "call_function" and "linear" in node.name:
            assert node.meta["val"].dtype == HALVES[dtype]
    quantized = program.findings.quantized
    assert all(q.tensors["scale"].dtype == HALVES[dtype] for q in quantized.values())


@pytest.mark.parametrize("dtype", list(HALVES))
def test_half_models_become_float32_exactly(dtype: str) -> None:
    module = model("gated").to(HALVES[dtype])
    program = capture(module, inputs("gated").to(HALVES[dtype]))
    before = program.run(program.example)[0]
    (now,) = converted(program, "float32")
    assert now.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in program.parameters().values())
    for node in program.graph.nodes:
        value = node.meta.get("val")
        assert not isinstance(value, Tensor) or value.dtype == torch.float32
    assert relative(now, before) < TOLERANCE[dtype]


class Squares(nn.Module):
    """Squares of 1,000 overflow float16; their mean's root does not."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.tensor(1e6))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) + self.large / 1e6


def test_what_overflows_stays_in_float32() -> None:
    program = capture(Squares(), 1000 * torch.randn(2, 8))
    before = program.run(program.example)[0]
    (now,) = converted(program, "float16")
    assert bool(torch.isfinite(now).all())
    assert relative(now, before) < 5e-3
    assert program.weight("large").dtype == torch.float32


class MaskedAttention(nn.Module):
    """A mask of the lowest float32, and one query that may look nowhere."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        bias = (1 - mask) * torch.finfo(torch.float32).min
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=bias)


def test_masks_do_not_become_infinite() -> None:
    mask = torch.ones(1, 4, 4).tril()
    mask[0, 1] = 0
    program = capture(MaskedAttention(), torch.randn(1, 4, 8), mask)
    before = program.run(program.example)[0]
    (now,) = converted(program, "float16")
    assert bool(torch.isfinite(now).all())
    # A query that may look nowhere has no meaning, only a finite value.
    seen = [0, 2, 3]
    assert relative(now[:, seen], before[:, seen]) < 5e-3


def test_unknown_dtypes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="choose one of float32, float16, bfloat16"):
        ConvertDtype("int8")


def test_a_recipe_of_a_half_model_is_repeated_with_its_text_or_the_earlier_one(
    tmp_path: Path,
) -> None:
    """Recipes once did not name convert-dtype, which every half model needs all the same."""
    example = inputs("mlp").bfloat16()
    options: dict[str, Any] = {"formats": ("pt2",), "effort": "fast"}
    first = compile_graph(
        model("mlp").bfloat16(), (example,), output_dir=tmp_path / "now", **options
    )
    text = first.report["recipe"]["pipeline"]
    assert text.startswith("convert-dtype,canonicalize,")
    assert text.endswith(",convert-dtype{dtype=bfloat16}")
    shutil.copytree(tmp_path / "now", tmp_path / "earlier")
    content = json.loads((tmp_path / "earlier" / "recipe.json").read_text())
    content["pipeline"] = re.sub(r",?convert-dtype(\{.*?\})?,?", "", text)
    (tmp_path / "earlier" / "recipe.json").write_text(json.dumps(content))
    wanted = first.graph_module.state_dict()
    for name in ("now", "earlier"):
        again = compile_graph(
            model("mlp").bfloat16(), (example,), recipe=tmp_path / name, **options
        )
        assert again.report["recipe"]["pipeline"].startswith("convert-dtype,canonicalize,load-")
        found = again.graph_module.state_dict()
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert torch.equal(found[key], value), key


class Mixed(nn.Module):
    """A head in half behind a body in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(32, 64), nn.Linear(64, 8).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).bfloat16())
        return out


def test_a_model_of_which_a_part_is_half_computes_in_float32() -> None:
    x = torch.randn(6, 32)
    found = awqc.compile(
        Mixed(), (x,), calib=[(x,)], effort="fast", bits=8, formats=("onnx", "pt2"), provider="cpu"
    )
    assert found.report["recipe"]["pipeline"].startswith("convert-dtype,")
    assert found.report["verify"]["original"]["sqnr_db"] > 30  # the original rounds to bfloat16
    assert found.graph_module(x).dtype == torch.float32

"""Norms of a sum become one operation, in whatever way they are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from awqc.targets.base import SKIP_LAYER
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import fused, parsed, run

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal(32).astype(np.float32)
NUMBERS = "float two={2.0}, float one={1.0}, float eps={0.0001}, int64[1] last={-1}"
SIZES = "float[batch,sequence,32]"

WAYS = {
    "divided by the root": "p = Pow(s, two)\n m = ReduceMean(p, last)\n e = Add(m, eps)\n"
    " r = Sqrt(e)\n d = Div(s, r)\n n = Mul(d, w)",
    "times the inverse": "p = Mul(s, s)\n m = ReduceMean(p, last)\n e = Add(eps, m)\n r = Sqrt(e)\n"
    " i = Reciprocal(r)\n d = Mul(i, s)\n n = Mul(w, d)",
    "one over the root": "p = Mul(s, s)\n m = ReduceMean(p, last)\n e = Add(m, eps)\n r = Sqrt(e)\n"
    " i = Div(one, r)\n d = Mul(s, i)\n n = Mul(d, w)",
}
OTHERS = {
    "the root of the mean without a square": "p = Mul(s, s)\n m = ReduceMean(p, last)\n"
    " e = Add(m, eps)\n d = Div(s, e)\n n = Mul(d, w)",
    "another value is divided": "p = Mul(s, s)\n m = ReduceMean(p, last)\n e = Add(m, eps)\n"
    " r = Sqrt(e)\n d = Div(x, r)\n n = Mul(d, w)",
}


def graph(norm: str) -> str:
    return (
        f"agraph ({SIZES} x, {SIZES} y) => ({SIZES} n, {SIZES} s)\n<{NUMBERS}>\n"
        f"{{ s = Add(x, y)\n {norm} }}"
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_sum_and_its_norm_are_one_and_the_sum_is_kept(way: str) -> None:
    before = parsed(graph(WAYS[way]), w=WEIGHT)
    after, operations, _ = fused(before)
    assert operations == {"SkipSimplifiedLayerNormalization": 1}
    feeds = {name: RNG.standard_normal((2, 3, 32)).astype(np.float32) for name in "xy"}
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_between_casts_it_is_one_in_half(way: str) -> None:
    """To a few roundings to float16."""
    sizes = SIZES.replace("float", "float16")
    norm = WAYS[way].replace("(s,", "(wide,").replace(" s)", " wide)").replace(" n =", " n0 =")
    text = (
        f"agraph ({sizes} x, {sizes} y) => ({sizes} n, {sizes} s)\n<{NUMBERS}>\n"
        f"{{ s = Add(x, y)\n wide = Cast <to=1> (s)\n w = Cast <to=1> (half)\n {norm}\n"
        f" n = Cast <to=10> (n0) }}"
    )
    before = parsed(text, half=WEIGHT.astype(np.float16))
    after, operations, _ = fused(before)
    assert operations == {"SkipSimplifiedLayerNormalization": 1}
    feeds = {name: RNG.standard_normal((2, 3, 32)).astype(np.float16) for name in "xy"}
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("way", OTHERS)
def test_what_looks_like_a_norm_and_computes_something_else_stays(way: str) -> None:
    before = parsed(graph(OTHERS[way]), w=WEIGHT)
    _, operations, told = fused(before)
    assert "SkipSimplifiedLayerNormalization" not in operations
    assert '"n": "n differs by' in told["awqc.apart"]


FUSING = replace(ORT_CPU, fused=ORT_CPU.fused | {SKIP_LAYER})
SLOWER = {
    "that has a kernel for both": (FUSING, {"SkipLayerNormalization": 1}),
    # whose kernel for both, which onnxruntime would take by itself, is slower than the two
    "that has none": (ORT_CPU, {"Sum": 1, "LayerNormalization": 1}),
}


@pytest.mark.parametrize("target", SLOWER)
def test_a_layer_norm_of_a_sum_for_a_target(target: str) -> None:
    text = (
        f"agraph ({SIZES} x, {SIZES} y) => ({SIZES} n, {SIZES} s)\n"
        "{ s = Add(x, y)\n n = LayerNormalization <epsilon=0.001, axis=-1> (s, w, b) }"
    )
    before = parsed(text, w=WEIGHT, b=WEIGHT[::-1].copy())
    row, wanted_operations = SLOWER[target]
    after, operations, _ = fused(before, row)
    assert operations == wanted_operations
    feeds = {name: RNG.standard_normal((2, 3, 32)).astype(np.float32) for name in "xy"}
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_reason_of_a_norm_that_stays() -> None:
    text = f"agraph ({SIZES} s) => ({SIZES} n)\n<{NUMBERS}>\n{{ {WAYS['divided by the root']} }}"
    _, operations, told = fused(parsed(text, w=WEIGHT))
    assert operations["Pow"] == 1
    assert told["awqc.apart"] == '{"n": "what it normalizes is no sum"}'


def test_onnxruntime_leaves_the_sum_alone_when_it_loads_the_model(tmp_path: Path) -> None:
    """It fuses an Add that only the norm reads with the norm."""
    text = (
        f"agraph ({SIZES} x, {SIZES} y) => ({SIZES} n)\n"
        "{ s = Add(x, y)\n n = LayerNormalization <axis=-1> (s, w, b) }"
    )
    before = parsed(text, w=WEIGHT, b=WEIGHT)
    after, _, _ = fused(before)
    wanted = ({"SkipLayerNormalization"}, {"Sum", "LayerNormalization"})
    for model, operations in zip((before, after), wanted, strict=True):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / "loaded.onnx").graph
        assert {node.op_type for node in graph.node} == operations

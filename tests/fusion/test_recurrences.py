"""A scan over tokens becomes onnxruntime's LinearAttention, if it computes just that."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from awqc.targets.base import LINEAR_ATTENTION
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import Array, fused, parsed, run

HEADS, WIDTH, SIZE, HIDDEN = 2, 4, 8, 16
RNG = np.random.default_rng(0)
FLAT = f"float[batch, tokens, {HIDDEN}]"


def weight(columns: int) -> Array:
    made: Array = RNG.standard_normal((HIDDEN, columns)).astype(np.float32) / HIDDEN**0.5
    return made


def layer(*, delta: bool, wide: bool, kept: str = "Exp(decay)") -> onnx.ModelProto:
    """A layer of linear attention whose operands are made by products."""
    decays = WIDTH if wide else 1
    added = (
        "known = MatMul(key_row, old) missing = Sub(value_row, known) "
        "rate = Unsqueeze(beta, column) added = Mul(missing, rate)"
        if delta
        else "added = Identity(value_row)"
    )
    rate = f", float[B, {HEADS}, 1] beta" if delta else ""
    body = f"""
        step (float[B, {HEADS}, {WIDTH}, {SIZE}] s, float[B, {HEADS}, {WIDTH}] query,
              float[B, {HEADS}, {WIDTH}] key, float[B, {HEADS}, {SIZE}] value,
              float[B, {HEADS}, {decays}] decay{rate})
            => (float[B, {HEADS}, {WIDTH}, {SIZE}] left, float[B, {HEADS}, {SIZE}] result)
            <int64[1] column = {{-1}}, int64[1] row = {{-2}}> {{
            kept = {kept}
            kept_row = Unsqueeze(kept, column)
            old = Mul(s, kept_row)
            key_row = Unsqueeze(key, row)
            key_column = Unsqueeze(key, column)
            value_row = Unsqueeze(value, row)
            {added}
            outer = Mul(key_column, added)
            left = Add(old, outer)
            query_row = Unsqueeze(query, row)
            result_row = MatMul(query_row, left)
            result = Squeeze(result_row, row)
        }}"""
    sizes = {"q": WIDTH, "k": WIDTH, "v": SIZE, "g": decays} | ({"b": 1} if delta else {})
    lines = [f"{n}1 = MatMul(x, {n}w) {n}2 = Reshape({n}1, {n}s)" for n in sizes]
    lines += ["g3 = Softplus(g2)", "g4 = Neg(g3)"]
    lines += ["squares = Mul(k2, k2)", "sum = ReduceSum(squares, last)", "length = Sqrt(sum)",
              "k3 = Div(k2, length)"]  # fmt: skip
    lines += ["b3 = Sigmoid(b2)"] if delta else []
    count = 5 if delta else 4
    ones = ", ".join("1" for _ in range(count))
    shapes = ", ".join(f"int64[4] {n}s = {{0, 0, {HEADS}, {w}}}" for n, w in sizes.items())
    rates = ", b3" if delta else ""
    return parsed(
        f"agraph ({FLAT} x, float[batch, {HEADS}, {WIDTH}, {SIZE}] state) => "
        f"(float[batch, tokens, {HEADS}, {SIZE}] y, "
        f"float[batch, {HEADS}, {WIDTH}, {SIZE}] left_state)\n"
        f"<{shapes}, int64[1] last = {{-1}}> {{"
        + "\n".join(lines)
        + f"""
        left_state, y = Scan <num_scan_inputs = {count}, scan_input_axes = [{ones}],
            scan_output_axes = [1], body = {body}> (state, q2, k3, v2, g4{rates})
        }}""",
        **{f"{n}w": weight(HEADS * width) for n, width in sizes.items()},
    )


def feeds(rows: int, tokens: int) -> dict[str, Array]:
    drawn = np.random.default_rng(tokens)
    return {
        "x": drawn.standard_normal((rows, tokens, HIDDEN)).astype(np.float32),
        "state": drawn.standard_normal((rows, HEADS, WIDTH, SIZE)).astype(np.float32),
    }


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_a_scan_becomes_one_operation(delta: bool, wide: bool) -> None:
    before = layer(delta=delta, wide=wide)
    after, count, _ = fused(before)
    assert (count[LINEAR_ATTENTION], count["Scan"]) == (1, 0)
    for rows, tokens in ((1, 1), (2, 1), (3, 11)):
        given = feeds(rows, tokens)
        for found, wanted in zip(run(after, given), run(before, given), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_another_scan_stays_and_says_why() -> None:
    before = layer(delta=True, wide=False, kept="Sigmoid(decay)")
    _, count, told = fused(before)
    assert (count[LINEAR_ATTENTION], count["Scan"]) == (0, 1)
    assert "differs" in " ".join(json.loads(told["awqc.apart"]).values())


def test_a_target_without_the_operation_keeps_the_scan() -> None:
    target = replace(ORT_CPU, fused=ORT_CPU.fused - {LINEAR_ATTENTION})
    _, count, _ = fused(layer(delta=True, wide=False), target)
    assert (count[LINEAR_ATTENTION], count["Scan"]) == (0, 1)

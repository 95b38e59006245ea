"""Rotations of queries become one operation, in whatever way they are written."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fusion.graphs import fused, parsed, run
from tests.fusion.test_cached_attention import (
    BATCHES,
    BEGIN,
    END,
    HIDE,
    INPUTS,
    MASK,
    OUTPUTS,
    PLAIN,
    SEEN,
)
from tests.fusion.test_cached_attention import NUMBERS as SIZES

RNG = np.random.default_rng(0)
NUMBERS = (
    f"{SIZES}, int64[1] last={{-1}}, int64[2] middle={{1,2}}, int64[1] first={{0}}, "
    "int64[1] two={2}, int64[1] four={4}, int64[1] eight={8}, int64[1] three={3}"
)
ANGLES = """
  p0 = Cast <to=1> (position_ids)
  p1 = Unsqueeze(p0, last)
  p2 = Mul(p1, frequency)
"""
HALVES = """
  p3 = Concat <axis=-1> (p2, p2)
  c0 = Cos(p3)
  sin0 = Sin(p3)
  cosine = Unsqueeze(c0, one1)
  sine = Unsqueeze(sin0, one1)
  h0 = Slice(before, first, four, three)
  h1 = Slice(before, four, eight, three)
  h2 = Neg(h1)
  h3 = Concat <axis=-1> (h2, h0)
  t0 = Mul(before, cosine)
  t1 = Mul(h3, sine)
  query = Add(t0, t1)
"""
PART = """
  p3 = Concat <axis=-1> (p2, p2)
  c0 = Cos(p3)
  sin0 = Sin(p3)
  cosine = Unsqueeze(c0, one1)
  sine = Unsqueeze(sin0, one1)
  x0 = Slice(before, first, four, three)
  x1 = Slice(before, four, eight, three)
  h0 = Slice(x0, first, two, three)
  h1 = Slice(x0, two, four, three)
  h2 = Neg(h1)
  h3 = Concat <axis=-1> (h2, h0)
  t0 = Mul(x0, cosine)
  t1 = Mul(h3, sine)
  t2 = Add(t1, t0)
  query = Concat <axis=-1> (t2, x1)
"""
INTERLEAVED = """
  c0 = Cos(p2)
  sin0 = Sin(p2)
  cosine = Unsqueeze(c0, two)
  sine = Unsqueeze(sin0, two)
  h0 = Slice(q0, first, eight, three, two)
  h1 = Slice(q0, one1, eight, three, two)
  e0 = Mul(h0, cosine)
  e1 = Mul(h1, sine)
  e2 = Sub(e0, e1)
  b0 = Mul(h0, sine)
  b1 = Mul(h1, cosine)
  b2 = Add(b0, b1)
  u0 = Unsqueeze(e2, last)
  u1 = Unsqueeze(b2, last)
  u2 = Concat <axis=-1> (u0, u1)
  u3 = Reshape(u2, heads)
  query = Transpose <perm=[0,2,1,3]> (u3)
"""
WAYS = {"halves": (HALVES, 4), "a part of the channels": (PART, 2), "interleaved": (INTERLEAVED, 4)}


@pytest.mark.parametrize("way", WAYS)
def test_a_rotation_is_one_operation_for_any_position(way: str) -> None:
    rotation, angles = WAYS[way]
    begin = BEGIN.replace("query = ", "before = ").replace("q0 = Reshape(x", "q0 = Reshape(w")
    numbers = f"{NUMBERS}, int64[1] one1={{1}}"
    body = f"w = MatMul(x, weight)\n{ANGLES}{begin}{rotation}{MASK}{SEEN}{HIDE}{PLAIN}{END}"
    text = (
        f"agraph ({INPUTS}, int64[batch,sequence] position_ids) => ({OUTPUTS})\n"
        f"<{numbers}>\n{{{body}}}"
    )
    before = parsed(
        text,
        never=np.array(-np.inf, np.float32),
        weight=RNG.standard_normal((32, 32)).astype(np.float32),
        frequency=(0.3 ** np.arange(angles)).astype(np.float32),
    )
    after, operations, _ = fused(before)
    assert (operations["RotaryEmbedding"], operations["GroupQueryAttention"]) == (1, 1)
    assert "Neg" not in operations
    for batch in BATCHES.values():
        shape = batch["x"].shape[:2]
        feeds = batch | {"position_ids": RNG.integers(0, 5000, shape)}
        for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-5)

"""Rotations go inside of attention where positions can be places in the cache."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from awqc.kv_cache import PLACES
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import fused, parsed, run

RNG = np.random.default_rng(0)
INPUTS = (
    "float[batch,sequence,64] x, int64[batch,sequence] position_ids, "
    "int64[batch,total] attention_mask, "
    "float[batch,2,past,16] past_key, float[batch,2,past,16] past_value"
)
OUTPUTS = (
    "float[batch,sequence,64] y, float[batch,2,total,16] present_key, "
    "float[batch,2,total,16] present_value"
)
NUMBERS = (
    "float scale={0.25}, float zero={0.0}, int64 none={0}, int64 one={1}, int64[1] behind={2}, "
    "int64[1] last={-1}, int64[1] first={0}, int64[1] one1={1}, int64[1] eight={8}, "
    "int64[1] sixteen={16}, int64[1] three={3}, int64[2] middle={1,2}, int64[3] parts={64,32,32}, "
    "int64[4] heads={0,0,4,16}, int64[4] own={0,0,2,16}, int64[5] each={1,1,2,1,1}, "
    "int64[4] repeated={0,4,-1,16}, int64[3] flat={0,0,-1}"
)
ANGLES = """
  p0 = Cast <to=1> (position_ids)
  p1 = Unsqueeze(p0, last)
  p2 = Mul(p1, frequency)
"""
QUADRATIC = ANGLES.replace("p2 = Mul(p1, frequency)", "p9 = Mul(p1, p1)\n  p2 = Mul(p9, frequency)")
TABLES = """
  p3 = Concat <axis=-1> (p2, p2)
  c0 = Cos(p3)
  s0 = Sin(p3)
  cosine = Unsqueeze(c0, one1)
  sine = Unsqueeze(s0, one1)
"""


def turned(name: str, source: str) -> str:
    return f"""
  {name}0 = Slice({source}, first, eight, three)
  {name}1 = Slice({source}, eight, sixteen, three)
  {name}2 = Neg({name}1)
  {name}3 = Concat <axis=-1> ({name}2, {name}0)
  {name}4 = Mul({source}, cosine)
  {name}5 = Mul({name}3, sine)
  {name} = Add({name}4, {name}5)
"""


PROJECTED = """
  w = MatMul(x, weight)
  xq, xk, xv = Split <axis=-1> (w, parts)
  q0 = Reshape(xq, heads)
  before = Transpose <perm=[0,2,1,3]> (q0)
  k0 = Reshape(xk, own)
  fresh = Transpose <perm=[0,2,1,3]> (k0)
  v0 = Reshape(xv, own)
  value = Transpose <perm=[0,2,1,3]> (v0)
"""
ATTENTION = """
  present_key = Concat <axis=-2> (past_key, key)
  present_value = Concat <axis=-2> (past_value, value)
  ku = Unsqueeze(present_key, behind)
  ke = Expand(ku, each)
  keys = Reshape(ke, repeated)
  vu = Unsqueeze(present_value, behind)
  ve = Expand(vu, each)
  values = Reshape(ve, repeated)
  across = Transpose <perm=[0,1,3,2]> (keys)
  l0 = Shape <start=2, end=3> (past_key)
  l1 = Shape <start=1, end=2> (x)
  l2 = Add(l0, l1)
  all = Squeeze(l2)
  before0 = Squeeze(l0)
  count = Squeeze(l1)
  r0 = Range(none, count, one)
  r1 = Add(r0, before0)
  rows = Unsqueeze(r1, last)
  columns = Range(none, all, one)
  seen0 = LessOrEqual(columns, rows)
  m0 = Cast <to=9> (attention_mask)
  m1 = Unsqueeze(m0, middle)
  seen = And(seen0, m1)
  bias = Where(seen, zero, never)
  e0 = Cast <to=7> (seen)
  e1 = ReduceMax(e0, last)
  any = Cast <to=9> (e1)
  a0 = MatMul(query, across)
  a1 = Mul(a0, scale)
  masked = Add(a1, bias)
  weights = Softmax <axis=-1> (masked)
  o0 = MatMul(weights, values)
  o1 = Where(any, o0, zero)
  o2 = Transpose <perm=[0,2,1,3]> (o1)
"""
FLAT = "  y = Reshape(o2, flat)\n"
READ_BESIDES = "  o3 = Reshape(o2, flat)\n  y = Add(o3, p1)\n"


def graph(angles: str = ANGLES, end: str = FLAT) -> Any:
    body = PROJECTED + angles + TABLES + turned("query", "before") + turned("key", "fresh")
    rng = np.random.default_rng(1)
    return parsed(
        f"agraph ({INPUTS}) => ({OUTPUTS})\n<{NUMBERS}>\n{{{body}{ATTENTION}{end}}}",
        never=np.array(-np.inf, np.float32),
        weight=rng.standard_normal((64, 128)).astype(np.float32) / 8,
        frequency=(0.3 ** np.arange(8)).astype(np.float32),
    )


def feeds(batch: int, tokens: int, past: int, *hidden: tuple[int, int]) -> dict[str, Any]:
    """Positions are places."""
    mask = np.ones((batch, past + tokens), np.int64)
    for place in hidden:
        mask[place] = 0
    cache = (batch, 2, past, 16)
    return {
        "x": RNG.standard_normal((batch, tokens, 64)).astype(np.float32),
        "past_key_values.0.key": RNG.standard_normal(cache).astype(np.float32),
        "past_key_values.0.value": RNG.standard_normal(cache).astype(np.float32),
        "position_ids": np.tile(np.arange(past, past + tokens), (batch, 1)),
        "attention_mask": mask,
    }


BATCHES = (
    feeds(1, 9, 0),
    feeds(2, 6, 0, (0, 0), (0, 1), (1, 3)),
    feeds(2, 1, 6, (0, 0)),
    feeds(1, 4, 70),
)


def test_positions_are_places_and_their_input_goes() -> None:
    before = graph()
    after, operations, told = fused(before)
    assert (operations["GroupQueryAttention"], operations["RotaryEmbedding"]) == (1, 0)
    assert operations["Split"] == 0  # queries, keys and values are read as they lie
    assert told[PLACES] == "1"
    assert "position_ids" not in {value.name for value in after.graph.input}
    for batch in BATCHES:
        for wanted, found in zip(run(before, batch), run(after, batch), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_row_behind_padding_gives_what_it_gives_counted_from_its_first_token() -> None:
    """A prompt, then a token with the cache that each of the two left."""
    before = graph()
    after, _, _ = fused(before)
    prompt = feeds(2, 6, 0, (0, 0), (0, 1))
    prompt["position_ids"] = prompt["position_ids"] - np.array([[2], [0]])
    made = [run(model, prompt) for model in (before, after)]
    np.testing.assert_allclose(made[1][0], made[0][0], atol=2e-5)
    assert not np.allclose(made[1][1], made[0][1], atol=1e-2)  # keys are turned otherwise
    step = feeds(2, 1, 6, (0, 0), (0, 1))
    step["position_ids"] = step["position_ids"] - np.array([[2], [0]])
    names = ("past_key_values.0.key", "past_key_values.0.value")
    rows = [
        run(model, step | dict(zip(names, states[1:], strict=True)))[0]
        for model, states in zip((before, after), made, strict=True)
    ]
    np.testing.assert_allclose(rows[1], rows[0], atol=2e-5)


REFUSED = {
    "made by Mul too": graph(angles=QUADRATIC),
    "read by Unsqueeze as well": graph(angles=ANGLES, end=READ_BESIDES),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_rotations_stay_outside_with_the_reason(reason: str) -> None:
    after, operations, told = fused(REFUSED[reason])
    assert (operations["GroupQueryAttention"], operations["RotaryEmbedding"]) == (1, 2)
    assert PLACES not in told
    apart = json.loads(told["awqc.apart"])["position_ids"]
    assert reason in apart or reason.replace("Unsqueeze", "Cast") in apart
    batch = BATCHES[1] | {"position_ids": RNG.integers(0, 500, (2, 6))}
    for wanted, found in zip(run(REFUSED[reason], batch), run(after, batch), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_target_is_given_positions_where_its_row_says_so() -> None:
    _, operations, told = fused(graph(), replace(ORT_CPU, turns_positions=False))
    assert operations["RotaryEmbedding"] == 2
    assert PLACES not in told

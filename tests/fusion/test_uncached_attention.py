"""Attention without a cache becomes one operation, in whatever way it is written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from awqc.targets.base import ATTENTION
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import fused, parsed, run

RNG = np.random.default_rng(0)
INPUTS = (
    "float[batch,sequence,32] x, float[batch,sequence,32] k, float[batch,sequence,32] v, "
    "int64[batch,sequence] attention_mask"
)
OUTPUT = "float[batch,sequence,32] y"
NUMBERS = (
    "float scale={0.3}, float root={0.5477226}, float cap={5.0}, float zero={0.0}, int64 none={0}, "
    "int64 one={1}, int64 window={2}, int64[4] heads={0,0,4,8}, int64[3] flat={0,0,-1}, "
    "int64[1] last={-1}, int64[2] middle={1,2}, int64[2] front={0,1}, int64[3] outer={0,1,3}, "
    "int64[3] inner={0,1,2}"
)
APART = """
  q0 = Reshape(x, heads)
  query = Transpose <perm=[0,2,1,3]> (q0)
  k0 = Reshape(k, heads)
  key = Transpose <perm=[0,2,1,3]> (k0)
  turned = Transpose <perm=[0,1,3,2]> (key)
  v0 = Reshape(v, heads)
  value = Transpose <perm=[0,2,1,3]> (v0)
"""
SCALED_BEFORE = APART.replace("q0 = Reshape(x,", "q1 = Mul(x, scale)\n  q0 = Reshape(q1,")
TURNED_AT_ONCE = APART.replace(
    "key = Transpose <perm=[0,2,1,3]> (k0)\n  turned = Transpose <perm=[0,1,3,2]> (key)",
    "turned = Transpose <perm=[0,2,3,1]> (k0)",
)
PLACES = """
  count0 = Shape <start=1, end=2> (x)
  count = Squeeze(count0)
  places = Range(none, count, one)
  rows = Unsqueeze(places, outer)
  columns = Unsqueeze(places, inner)
  real = GreaterOrEqual(rows, none)
  m0 = Cast <to=9> (attention_mask)
  m1 = Unsqueeze(m0, middle)
"""
PADDED = PLACES + "  seen = And(real, m1)\n"
NEAR = (
    PLACES
    + """
  r0 = Add(rows, window)
  near0 = LessOrEqual(columns, r0)
  seen = And(near0, m1)
"""
)
OPEN = (
    PLACES
    + """
  shape0 = Shape <start=0, end=1> (x)
  shape = Concat <axis=0> (shape0, last1, count0, count0)
  seen = Expand(real, shape)
"""
)
HIDE = """
  bias = Where(seen, zero, never)
  s0 = Cast <to=7> (seen)
  s1 = ReduceMax(s0, last)
  any = Cast <to=9> (s1)
"""
SCALED = "  a0 = MatMul(query, turned)\n  a1 = Mul(a0, scale)\n"
UNSCALED = "  a1 = MatMul(query, turned)\n"
BOTH_SCALED = "  q9 = Mul(query, root)\n  k9 = Mul(turned, root)\n  a1 = MatMul(q9, k9)\n"
CAPPED = f"{SCALED}  a2 = Div(a1, cap)\n  a3 = Tanh(a2)\n  a4 = Mul(a3, cap)\n"
MASKED = "  a9 = Add(a1, bias)\n"
BY_PLACE = "  a5 = Add(a1, offsets)\n  a9 = Add(bias, a5)\n"
LAST = """
  weights = Softmax <axis=-1> (a9)
  o0 = MatMul(weights, value)
"""
BACK = "  o2 = Transpose <perm=[0,2,1,3]> (o1)\n  y = Reshape(o2, flat)\n"
ZEROS = f"  o1 = Where(any, o0, zero)\n{BACK}"
PLAIN = BACK.replace("o1", "o0")


def graph(*parts: str) -> onnx.ModelProto:
    numbers = f"{NUMBERS}, int64[1] last1={{1}}"
    text = f"agraph ({INPUTS}) => ({OUTPUT})\n<{numbers}>\n{{{''.join(parts)}}}"
    offsets = RNG.standard_normal((1, 4, 1, 1)).astype(np.float32)
    return parsed(text, never=np.array(-np.inf, np.float32), offsets=offsets)


def feeds(batch: int, tokens: int, *hidden: tuple[Any, ...]) -> dict[str, Any]:
    mask = np.ones((batch, tokens), np.int64)
    for place in hidden:
        mask[place] = 0
    made = {name: RNG.standard_normal((batch, tokens, 32)).astype(np.float32) for name in "xkv"}
    return {**made, "attention_mask": mask}


BATCHES = {
    "one row": feeds(1, 9),
    "padding on both sides": feeds(2, 6, (0, 0), (1, 5), (1, 4)),
    "a row that is padding": feeds(2, 4, (1, slice(None))),
    "one token": feeds(3, 1),
}
WAYS = {
    "scores scaled": graph(APART, PADDED, HIDE, SCALED, MASKED, LAST, ZEROS),
    "queries scaled before heads are apart": graph(
        SCALED_BEFORE, PADDED, HIDE, UNSCALED, MASKED, LAST, ZEROS
    ),
    "queries and keys scaled": graph(APART, PADDED, HIDE, BOTH_SCALED, MASKED, LAST, ZEROS),
    "keys turned at once": graph(TURNED_AT_ONCE, PADDED, HIDE, SCALED, MASKED, LAST, ZEROS),
    "a window": graph(APART, NEAR, HIDE, SCALED, MASKED, LAST, ZEROS),
    "two things are added": graph(APART, PADDED, HIDE, SCALED, BY_PLACE, LAST, ZEROS),
    "nothing is added": graph(APART, SCALED.replace("a1", "a9"), LAST, PLAIN),
    "a mask that hides nothing": graph(APART, OPEN, HIDE, SCALED, MASKED, LAST, ZEROS),
}


@pytest.mark.parametrize("way", WAYS)
def test_attention_without_a_cache_is_one_operation(way: str) -> None:
    after, operations, told = fused(WAYS[way])
    assert operations[ATTENTION] == 1
    assert not {"Softmax", "MatMul", "Transpose", "Mul"} & set(operations)
    assert told["awqc.apart"] == "{}"
    for batch in BATCHES.values():
        for wanted, found in zip(run(WAYS[way], batch), run(after, batch), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_mask_that_hides_nothing_is_not_made() -> None:
    _, operations, _ = fused(WAYS["a mask that hides nothing"])
    assert operations == {ATTENTION: 1}


REFUSED = {
    "weights over queries": graph(
        APART, PADDED, HIDE, SCALED, MASKED, LAST.replace("-1", "2"), ZEROS
    ),
    "a soft cap": graph(APART, PADDED, HIDE, CAPPED, MASKED.replace("a1", "a4"), LAST, ZEROS),
    "weights that are read elsewhere": graph(
        APART, PADDED, HIDE, SCALED, MASKED, LAST, "  w9 = MatMul(weights, o0)\n",
        ZEROS.replace("Where(any, o0", "Where(any, w9"),
    ),
}  # fmt: skip
REASONS = {
    "weights over queries": f"{ATTENTION} does not compute the same: ",
    "a soft cap": f"its scores have a soft cap, which {ATTENTION} has not",
    "weights that are read elsewhere": "its weights are read by something else than the product",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_kernel_computes_otherwise_stays_apart(kind: str) -> None:
    _, operations, told = fused(REFUSED[kind])
    assert operations["Softmax"] == 1
    assert ATTENTION not in operations
    (reason,) = json.loads(told["awqc.apart"]).values()
    assert reason.startswith(REASONS[kind])


def test_a_target_without_the_kernel_keeps_what_it_has() -> None:
    target = replace(ORT_CPU, fused=ORT_CPU.fused - {ATTENTION})
    _, operations, told = fused(WAYS["scores scaled"], target)
    assert operations["Softmax"] == 1
    assert told["awqc.apart"] == "{}"


@pytest.mark.parametrize("past", [False, True])
def test_states_that_are_handed_in_are_read_as_they_are(past: bool) -> None:
    """As a decoder reads what it made of an encoder's states once, which then is a past to it."""
    key, value = ("past_key", "past_value") if past else ("k", "v")
    inputs = (
        f"float[batch,sequence,32] x, float[batch,4,length,8] {key}, "
        f"float[batch,4,length,8] {value}, int64[batch,length] encoder_mask"
    )
    body = f"""
      q0 = Reshape(x, heads)
      query = Transpose <perm=[0,2,1,3]> (q0)
      turned = Transpose <perm=[0,1,3,2]> ({key})
      m0 = Cast <to=9> (encoder_mask)
      m1 = Unsqueeze(m0, middle)
      bias = Where(m1, zero, never)
      a0 = MatMul(query, turned)
      a1 = Mul(a0, scale)
      a9 = Add(a1, bias)
      weights = Softmax <axis=-1> (a9)
      o0 = MatMul(weights, {value})
    """
    model = parsed(
        f"agraph ({inputs}) => ({OUTPUT})\n<{NUMBERS}>\n{{{body}{PLAIN}}}",
        never=np.array(np.finfo(np.float32).min, np.float32),
    )
    after, operations, _ = fused(model)
    assert operations[ATTENTION] == 1
    assert not {"Softmax", "MatMul", "Transpose"} & set(operations)
    mask = np.ones((2, 7), np.int64)
    mask[0, 3:] = 0
    names = [each.name for each in model.graph.input if each.name not in ("x", "encoder_mask")]
    states = {name: RNG.standard_normal((2, 4, 7, 8)).astype(np.float32) for name in names}
    for tokens in (1, 5):
        x = RNG.standard_normal((2, tokens, 32)).astype(np.float32)
        batch: dict[str, Any] = {"x": x, **states, "encoder_mask": mask}
        for wanted, found in zip(run(model, batch), run(after, batch), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)

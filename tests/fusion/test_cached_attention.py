"""Attention with its cache becomes one operation, in whatever way it is written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest

from awqc.kv_cache import ROW_BY_ROW, SHARED_CACHE
from tests.fusion.graphs import fused, parsed, run

HEADS, OWN, WIDTH = 4, 2, 8
RNG = np.random.default_rng(0)
INPUTS = (
    "float[batch,sequence,32] x, float[batch,sequence,16] k, float[batch,sequence,16] v, "
    "int64[batch,total] attention_mask, "
    "float[batch,2,past,8] past_key, float[batch,2,past,8] past_value"
)
OUTPUTS = (
    "float[batch,sequence,32] y, float[batch,2,total,8] present_key, "
    "float[batch,2,total,8] present_value"
)
NUMBERS = (
    "float scale={0.3}, float cap={5.0}, float zero={0.0}, "
    "int64 none={0}, int64 one={1}, int64 window={3}, int64[1] behind={2}, "
    "int64[4] heads={0,0,4,8}, int64[4] own={0,0,2,8}, int64[5] each={1,1,2,1,1}, "
    "int64[4] repeated={0,4,-1,8}, int64[3] flat={0,0,-1}"
)
BEGIN = """
  q0 = Reshape(x, heads)
  query = Transpose <perm=[0,2,1,3]> (q0)
  k0 = Reshape(k, own)
  key = Transpose <perm=[0,2,1,3]> (k0)
  v0 = Reshape(v, own)
  value = Transpose <perm=[0,2,1,3]> (v0)
  present_key = Concat <axis=-2> (past_key, key)
  present_value = Concat <axis=-2> (past_value, value)
  k1 = Unsqueeze(present_key, behind)
  k2 = Expand(k1, each)
  keys = Reshape(k2, repeated)
  v1 = Unsqueeze(present_value, behind)
  v2 = Expand(v1, each)
  values = Reshape(v2, repeated)
  turned = Transpose <perm=[0,1,3,2]> (keys)
"""
MASK = """
  lengths = Shape <start=2, end=3> (past_key)
  fresh = Shape <start=1, end=2> (x)
  all0 = Add(lengths, fresh)
  all = Squeeze(all0)
  behind0 = Squeeze(lengths)
  count = Squeeze(fresh)
  r0 = Range(none, count, one)
  r1 = Add(r0, behind0)
  rows = Unsqueeze(r1, last)
  columns = Range(none, all, one)
  seen0 = LessOrEqual(columns, rows)
  m0 = Cast <to=9> (attention_mask)
  m1 = Unsqueeze(m0, middle)
"""
END = """
  weights = Softmax <axis=-1> (masked)
  o0 = MatMul(weights, values)
  o1 = Where(any, o0, zero)
  o2 = Transpose <perm=[0,2,1,3]> (o1)
  y = Reshape(o2, flat)
"""
SEEN = "  seen = And(seen0, m1)\n"
WINDOWED = """
  r2 = Sub(rows, window)
  near = Greater(columns, r2)
  seen1 = And(seen0, near)
  seen = And(seen1, m1)
"""
AHEAD = """
  r2 = Add(rows, one)
  seen1 = LessOrEqual(columns, r2)
  seen = And(seen1, m1)
"""
HIDE = """
  bias = Where(seen, zero, never)
  s0 = Cast <to=7> (seen)
  s1 = ReduceMax(s0, last)
  any = Cast <to=9> (s1)
"""
PLAIN = "  a0 = MatMul(query, turned)\n  a1 = Mul(a0, scale)\n  masked = Add(a1, bias)\n"
BEFORE = "  a0 = Mul(query, scale)\n  a1 = MatMul(a0, turned)\n  masked = Add(bias, a1)\n"
CAPPED = """
  a0 = MatMul(query, turned)
  a1 = Mul(a0, scale)
  a2 = Div(a1, cap)
  a3 = Tanh(a2)
  a4 = Mul(a3, cap)
  masked = Add(a4, bias)
"""


def graph(mask: str = SEEN, scores: str = PLAIN, hide: str = HIDE) -> Any:
    numbers = f"{NUMBERS}, int64[1] last={{-1}}, int64[2] middle={{1,2}}"
    body = BEGIN + MASK + mask + hide + scores + END
    lowest = np.array(-np.inf, np.float32)
    text = f"agraph ({INPUTS}) => ({OUTPUTS})\n<{numbers}>\n{{{body}}}"
    return parsed(text, never=lowest)


def graph_without_mask() -> Any:
    """No input covers past and new tokens: only what lies ahead is hidden."""
    numbers = f"{NUMBERS}, int64[1] last={{-1}}, int64[2] front={{0,1}}"
    lines = [line for line in MASK.splitlines() if "m0" not in line]
    seen = "\n  seen = Unsqueeze(seen0, front)\n"
    body = BEGIN + "\n".join(lines) + seen + HIDE + PLAIN + END
    inputs = INPUTS.replace("int64[batch,total] attention_mask, ", "")
    text = f"agraph ({inputs}) => ({OUTPUTS})\n<{numbers}>\n{{{body}}}"
    return parsed(text, never=np.array(-np.inf, np.float32))


WIDE_CACHE = """
  past_wide = Cast <to=1> (past_key)
  key_wide = Cast <to=1> (key)
  whole = Concat <axis=-2> (past_wide, key_wide)
  present_key = Cast <to=10> (whole)
"""
"""The keys are joined in float32, as where they were turned in it."""


def graph_in_half() -> Any:
    """The same in float16, with what a conversion leaves: casts, and a mask that is finite."""
    body = BEGIN + MASK + SEEN + HIDE + PLAIN + END
    body = body.replace("  present_key = Concat <axis=-2> (past_key, key)\n", WIDE_CACHE)
    body = body.replace("Unsqueeze(present_key, behind)", "Unsqueeze(whole, behind)")
    body = body.replace("  keys = Reshape(k2, repeated)", "  k3 = Reshape(k2, repeated)\n"
                        "  keys = Cast <to=10> (k3)")  # fmt: skip
    _, _, whole_numbers = NUMBERS.partition("float zero={0.0}, ")
    numbers = f"{whole_numbers}, int64[1] last={{-1}}, int64[2] middle={{1,2}}"
    sides = f"({INPUTS}) => ({OUTPUTS})".replace("float[", "float16[")
    made = {"scale": 0.3, "zero": 0.0, "never": np.finfo(np.float16).min / 2}
    return parsed(
        f"agraph {sides}\n<{numbers}>\n{{{body}}}",
        **{name: np.array(value, np.float16) for name, value in made.items()},
    )


def feeds(batch: int, tokens: int, past: int, *hidden: tuple[int, int]) -> dict[str, Any]:
    mask = np.ones((batch, past + tokens), np.int64)
    for place in hidden:
        mask[place] = 0
    shapes = {
        "x": (batch, tokens, 32), "k": (batch, tokens, 16), "v": (batch, tokens, 16),
        "past_key_values.0.key": (batch, OWN, past, WIDTH),
        "past_key_values.0.value": (batch, OWN, past, WIDTH),
    }  # fmt: skip
    made = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**made, "attention_mask": mask}


BATCHES = {
    "a prompt": feeds(1, 9, 0),
    "padding on the left, where nothing is seen": feeds(2, 6, 0, (0, 0), (0, 1)),
    "padding on the right": feeds(2, 6, 0, (1, 5)),
    "one token behind a past with a hole": feeds(2, 1, 6, (0, 0), (1, 3)),
    "tokens behind a past": feeds(1, 4, 7, (0, 0)),
}
WAYS = {
    "scores scaled": graph(),
    "queries scaled": graph(scores=BEFORE),
    "a window": graph(mask=WINDOWED),
}


@pytest.mark.parametrize("way", WAYS)
def test_attention_with_its_cache_is_one_operation(way: str) -> None:
    after, operations, told = fused(WAYS[way])
    assert operations["GroupQueryAttention"] == 1
    assert not {"Softmax", "MatMul", "Tanh"} & set(operations)
    assert (told[ROW_BY_ROW], told[SHARED_CACHE]) == ("1", "1")
    for batch in BATCHES.values():
        for wanted, found in zip(run(WAYS[way], batch), run(after, batch), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("axis", "shared"), [("past", False), (3, True)])
def test_no_buffer_is_shared_beside_another_state_that_grows(axis: int | str, shared: bool) -> None:
    """As keys of an indexer do, which nothing puts into a buffer; what stays as it is may be."""
    model = onnx.ModelProto.FromString(graph().SerializeToString())
    made, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    model.graph.input.append(made("past_other.0", kind, ["batch", axis, 8]))
    model.graph.output.append(made("present_other.0", kind, ["batch", axis, 8]))
    model.graph.node.append(onnx.helper.make_node("Neg", ["past_other.0"], ["present_other.0"]))
    _, operations, told = fused(model)
    assert operations["GroupQueryAttention"] == 1
    assert (SHARED_CACHE in told) == shared


def test_in_half_precision_too_with_zeros_where_nothing_is_seen() -> None:
    """To the rounding of a result to float16, and of one operand of it."""
    model = graph_in_half()
    after, operations, told = fused(model)
    assert operations["GroupQueryAttention"] == 1
    assert not {"Softmax", "MatMul"} & set(operations)
    assert told[SHARED_CACHE] == "1"
    for batch in BATCHES.values():
        half = {
            name: array.astype(np.float16) if array.dtype == np.float32 else array
            for name, array in batch.items()
        }
        for wanted, found in zip(run(model, half), run(after, half), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_without_a_mask_tokens_are_counted_by_themselves() -> None:
    """Not off the keys that the operation makes, which it could not read."""
    model = graph_without_mask()
    after, operations, told = fused(model)
    assert operations["GroupQueryAttention"] == 1
    assert SHARED_CACHE not in told
    for batch in (feeds(1, 9, 0), feeds(2, 6, 0), feeds(2, 1, 6), feeds(1, 4, 7)):
        for wanted, found in zip(run(model, batch), run(after, batch), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


EAGER = """
  bias = Where(seen, zero, low)
"""
"""The lowest number hides, so that a token which sees nothing gets an average of all there is."""
UNMASKED = END.replace("  o1 = Where(any, o0, zero)\n", "").replace("(o1)", "(o0)")
FILLED = """
  a0 = MatMul(query, turned)
  a1 = Mul(a0, scale)
  far = Cast <to=1> (columns)
  slope0 = Mul(slopes, far)
  a2 = Add(a1, slope0)
  hidden = Not(seen)
  masked = Where(hidden, low, a2)
"""
FLOORED = """
  a0 = MatMul(query, turned)
  a1 = Mul(a0, scale)
  a2 = Add(a1, bias)
  masked = Max(a2, low)
"""
SINK = """
  a0 = MatMul(query, turned)
  a1 = Mul(a0, scale)
  a2 = Add(a1, bias)
  rows0 = Shape <start=0, end=1> (x)
  sunk = Concat <axis=0> (rows0, four, fresh, last0)
  s2 = Expand(sinks, sunk)
  a3 = Concat <axis=-1> (a2, s2)
  a4 = ReduceMax <keepdims=1> (a3, last)
  masked = Sub(a3, a4)
"""
CUT = """
  weights0 = Softmax <axis=-1> (masked)
  weights = Slice(weights0, from0, last, last)
  o0 = MatMul(weights, values)
  o2 = Transpose <perm=[0,2,1,3]> (o0)
  y = Reshape(o2, flat)
"""


def eager(scores: str, end: str = UNMASKED, hide: str = EAGER) -> Any:
    numbers = (
        f"{NUMBERS}, int64[1] last={{-1}}, int64[2] middle={{1,2}}, int64[1] from0={{0}}, "
        "int64[1] four={4}, int64[1] last0={1}"
    )
    body = BEGIN + MASK + SEEN + hide + scores + end
    return parsed(
        f"agraph ({INPUTS}) => ({OUTPUTS})\n<{numbers}>\n{{{body}}}",
        low=np.array(np.finfo(np.float32).min),
        slopes=(-(0.5 ** np.arange(HEADS))).astype(np.float32).reshape(1, HEADS, 1, 1),
        sinks=np.array([0.5, -1.0, 2.0, 0.0], np.float32).reshape(1, HEADS, 1, 1),
    )


EAGER_WAYS = {
    "a soft cap": eager(CAPPED),
    "slopes, and scores that are filled": eager(FILLED, hide=""),
    "sinks": eager(SINK, CUT),
    "scores no lower than the lowest number": eager(FLOORED),
}


@pytest.mark.parametrize("way", EAGER_WAYS)
def test_what_differs_at_padding_alone_is_one_operation_too(way: str) -> None:
    """A token that sees nothing is padding itself."""
    after, operations, told = fused(EAGER_WAYS[way])
    assert operations["GroupQueryAttention"] == 1
    assert not {"Softmax", "MatMul", "Tanh"} & set(operations)
    assert told[SHARED_CACHE] == "1"
    for batch in BATCHES.values():
        tokens = batch["attention_mask"][:, -batch["x"].shape[1] :] > 0
        wanted, found = run(EAGER_WAYS[way], batch), run(after, batch)
        np.testing.assert_allclose(found[0][tokens], wanted[0][tokens], atol=1e-5)
        for before, now in zip(wanted[1:], found[1:], strict=True):
            np.testing.assert_allclose(now, before, atol=1e-6)


def test_what_the_kernel_computes_otherwise_stays_apart() -> None:
    """A mask that looks ahead."""
    _, operations, told = fused(graph(mask=AHEAD))
    assert operations["Softmax"] == 1
    (reason,) = json.loads(told["awqc.apart"]).values()
    assert reason.startswith("GroupQueryAttention does not compute the same: y differs by")
    assert SHARED_CACHE not in told
    assert ROW_BY_ROW not in told


def test_a_cache_in_a_larger_buffer_gives_the_same() -> None:
    import onnxruntime as ort

    after, _, _ = fused(graph())
    session = ort.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = feeds(1, 2, 5)
    wanted = run(graph(), batch)
    binding = session.io_binding()
    pairs = {"past_key_values.0.key": "present.0.key", "past_key_values.0.value": "present.0.value"}
    buffers = {}
    for past, present in pairs.items():
        room = np.full((1, OWN, 20, WIDTH), 9.0, np.float32)
        room[:, :, :5] = batch[past]
        buffers[present] = ort.OrtValue.ortvalue_from_numpy(room)
        binding.bind_ortvalue_input(past, buffers[present])
        binding.bind_ortvalue_output(present, buffers[present])
    for value in session.get_inputs():
        if value.name not in pairs:
            binding.bind_cpu_input(value.name, batch[value.name])
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.get_outputs()[-1].numpy(), wanted[0], atol=1e-5)
    filled = buffers["present.0.key"].numpy()[:, :, :7]
    np.testing.assert_allclose(filled, wanted[1], atol=1e-6)

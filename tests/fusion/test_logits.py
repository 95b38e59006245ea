"""A runner may ask for the logits of the last tokens only."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.fusion.graphs import fused, parsed, run

CACHE = "float[batch,2,past,8] past_key"
HEAD = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32)
FEEDS = {"x": X, "past_key_values.0.key": np.zeros((2, 2, 3, 8), np.float32)}
WAYS = {
    "a product": "logits = MatMul(x, head)",
    "a product, capped": "a = MatMul(x, head)\n b = Div(a, ten)\n c = Tanh(b)\n"
    " logits = Mul(c, ten)",
    "a product and a vector": "a = MatMul(x, head)\n logits = Add(a, vector)",
}


def graph(body: str, cache: str = CACHE) -> onnx.ModelProto:
    inputs = ", ".join(filter(None, ["float[batch,sequence,32] x", cache]))
    output = "float[batch,sequence,48] logits"
    text = f"agraph ({inputs}) => ({output})\n<float ten={{10.0}}>\n{{ {body} }}"
    return parsed(text, head=HEAD, vector=HEAD[0])


@pytest.mark.parametrize("way", WAYS)
def test_all_logits_unless_asked_for_the_last(way: str) -> None:
    before = graph(WAYS[way])
    after, _, _ = fused(before)
    (wanted,) = run(before, FEEDS)
    np.testing.assert_allclose(run(after, FEEDS)[0], wanted, atol=1e-6)
    asked = onnx.ModelProto()
    asked.CopyFrom(after)
    start = next(t for t in asked.graph.initializer if t.name == "logits_start")
    start.CopyFrom(onnx.numpy_helper.from_array(np.array([-1]), "logits_start"))
    np.testing.assert_allclose(run(asked, FEEDS)[0], wanted[:, -1:], atol=1e-6)


def test_a_model_without_a_cache_has_no_such_input() -> None:
    after, _, _ = fused(graph(WAYS["a product"], cache=""))
    assert [value.name for value in after.graph.input] == ["x"]


def test_what_mixes_tokens_behind_the_head_keeps_all_of_them() -> None:
    body = "a = MatMul(x, head)\n logits = CumSum(a, axis)"
    model = graph(body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "axis"))
    after, operations, _ = fused(model)
    assert "Slice" not in operations
    assert "logits_start" not in {value.name for value in after.graph.input}

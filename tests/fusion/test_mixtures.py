"""Experts of which each token takes some become one operation, which computes only these."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from awqc.artifacts.recipe_onnx import OnnxCodes
from awqc.numerics.formats.int_grid import IntGrid
from awqc.targets.base import EXPERTS
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import Array, fused, parsed, run

RNG = np.random.default_rng(0)
WIDTH, INNER, COUNT, BLOCK = 32, 16, 4, 16
PRODUCT = "com.microsoft.MatMulNBits"
NUMBERS = (
    "int64 none={0}, int64 one={1}, int64[1] flat={-1}, int64[1] first={1}, int64[1] two={2}, "
    f"int64[3] apart={{-1, 2, {WIDTH}}}, int64[2] column={{-1, 1}}, float zero={{0.0}}"
)


def product(inputs: str, name: str, result: str, rows: int, columns: int, more: str = "") -> str:
    """A product with 4-bit codes in blocks, in float32."""
    sizes = f"K={columns}, N={rows}, bits=4, block_size={BLOCK}, accuracy_level=4"
    return f"{result} = {PRODUCT} <{sizes}> ({inputs}, {name}, {name}_s, {name}_z{more})"


def weights(name: str, rows: int, columns: int) -> dict[str, Array]:
    blocks = columns // BLOCK
    return {
        name: RNG.integers(0, 256, (rows, blocks, BLOCK // 2)).astype(np.uint8),
        f"{name}_s": RNG.uniform(0.01, 0.02, (rows, blocks)).astype(np.float32),
        f"{name}_z": RNG.integers(0, 256, (rows, -(-blocks // 2))).astype(np.uint8),
    }


def layer(
    *, halves: bool = True, activate: str = "Sigmoid", numbers: tuple[int, ...] = (0, 1, 2, 3),
    added: str = "",
) -> onnx.ModelProto:  # fmt: skip
    """Two of four experts for each token, as rows that are computed by all and masked."""
    lines = [
        "scores = MatMul(x, router)", "best, chosen = TopK(scores, two)", "w = Softmax(best)",
        "ids = Reshape(chosen, column)", "many = Size(chosen)", "order = Range(none, many, one)",
        "pair = Squeeze(two)", "token = Div(order, pair)", "rows = Gather(x, token)",
    ]  # fmt: skip
    arrays: dict[str, Any] = {"router": RNG.standard_normal((WIDTH, COUNT)).astype(np.float32)}
    for n in range(COUNT):
        if halves:
            lines += [
                product("rows", f"both{n}", f"b{n}", 2 * INNER, WIDTH),
                f"g{n}, u{n} = Split <axis=-1, num_outputs=2> (b{n})",
            ]
            arrays |= weights(f"both{n}", 2 * INNER, WIDTH)
        else:
            lines += [product("rows", f"{kind}w{n}", f"{kind}{n}", INNER, WIDTH) for kind in "gu"]
            arrays |= weights(f"gw{n}", INNER, WIDTH) | weights(f"uw{n}", INNER, WIDTH)
        lines += [
            f"s{n} = {activate}(g{n})", f"a{n} = Mul(g{n}, s{n})", f"m{n} = Mul(a{n}, u{n})",
            product(f"m{n}", f"down{n}", f"d{n}", WIDTH, INNER, added),
            f"e{n} = Equal(ids, c{n})", f"y{n} = Where(e{n}, d{n}, zero)",
        ]  # fmt: skip
        arrays |= weights(f"down{n}", WIDTH, INNER)
    lines += [
        "t1 = Add(y0, y1)", "t2 = Add(t1, y2)", "t3 = Add(t2, y3)", "each = Reshape(w, column)",
        "weighed = Mul(t3, each)", "split = Reshape(weighed, apart)",
        "y = ReduceSum <keepdims=0> (split, first)",
    ]  # fmt: skip
    if added:
        arrays["vector"] = RNG.standard_normal(WIDTH).astype(np.float32)
    constants = ", ".join(f"int64 c{n}={{{number}}}" for n, number in enumerate(numbers))
    text = (
        f"agraph (float[tokens,{WIDTH}] x) => (float[tokens,{WIDTH}] y)\n"
        f"<{NUMBERS}, {constants}>\n{{ " + "\n ".join(lines) + " }"
    )
    model = parsed(text, **arrays)
    sizes: dict[str, list[str | int | None]] = {"y": ["tokens", WIDTH], "rows": ["rows", WIDTH]}
    for number in range(COUNT):  # what onnx infers nothing of
        sizes |= {f"d{number}": ["rows", WIDTH], f"b{number}": ["rows", 2 * INNER]}
    for name, shape in sizes.items():
        model.graph.value_info.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    return model


@pytest.mark.parametrize("halves", [True, False], ids=["one product", "two products"])
@pytest.mark.parametrize("tokens", [1, 7])
def test_experts_are_one_operation(halves: bool, tokens: int) -> None:
    before = layer(halves=halves)
    after, operations, told = fused(before)
    assert operations[EXPERTS] == 1, told
    assert operations["MatMulNBits"] == 0
    assert set(operations) == {
        "MatMul", "TopK", "Softmax", "Shape", "Expand", "Concat", "ScatterElements", EXPERTS
    }  # fmt: skip
    for model in (before, after):
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    assert attribute.i == 4  # the layer's own
                    attribute.i = 1
    feeds = {"x": RNG.standard_normal((tokens, WIDTH)).astype(np.float32)}
    (wanted,), (found,) = run(before, feeds), run(after, feeds)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_experts_in_another_order_than_they_are_added_stay() -> None:
    _, operations, told = fused(layer(numbers=(1, 0, 2, 3)))
    assert operations[EXPERTS] == 0
    assert "differs by" in json.loads(told["awqc.apart"])["t3"]


def test_what_the_operation_does_not_compute_stays() -> None:
    _, operations, _ = fused(layer(activate="Tanh"))
    assert (operations[EXPERTS], operations["MatMulNBits"]) == (0, 2 * COUNT)
    _, operations, told = fused(layer(added=", , vector"))
    assert operations[EXPERTS] == 0
    assert json.loads(told["awqc.apart"]) == {"t3": "an expert adds a vector"}


def test_a_target_without_it_keeps_what_there_is() -> None:
    _, operations, _ = fused(layer(), replace(ORT_CPU, fused=ORT_CPU.fused - {EXPERTS}))
    assert (operations[EXPERTS], operations["MatMulNBits"]) == (0, 2 * COUNT)


def test_the_operation_says_which_weights_it_holds(tmp_path: Path) -> None:
    """So that a recipe reads them out of it: gates and ups in turns, downs as they are."""
    before = layer()
    after, _, _ = fused(before)
    path = tmp_path / "model.onnx"
    onnx.save(after, path)
    held = OnnxCodes(path)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in before.graph.initializer}
    for name, rows, columns in (("both3", 2 * INNER, WIDTH), ("down1", WIDTH, INNER)):
        found = held.find(name, rows, columns, IntGrid(4, BLOCK, symmetric=False))
        assert found is not None
        assert found.zero_point is not None
        packed = arrays[name].reshape(rows, -1)
        np.testing.assert_array_equal(found.codes.numpy()[:, 0::2], packed & 15)
        np.testing.assert_array_equal(found.codes.numpy()[:, 1::2], packed >> 4)
        np.testing.assert_array_equal(found.scale.numpy(), arrays[f"{name}_s"])
        np.testing.assert_array_equal(
            found.zero_point.numpy()[:, 0], arrays[f"{name}_z"][:, 0] & 15
        )
    assert held.find("both3", WIDTH + 2 * INNER, WIDTH, IntGrid(4, BLOCK, symmetric=False)) is None

"""What stands between operations and computes nothing goes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fusion.graphs import fused, parsed, run

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "axes", [((0,), (1,), (3,)), ((2,), (0,), (2, 4)), ((0, 3), (0,), (1,)), ((1,), (1,), (1,))]
)
def test_axes_that_are_added_one_after_the_other_are_added_at_once(
    axes: tuple[tuple[int, ...], ...],
) -> None:
    numbers = ", ".join(
        f"int64[{len(each)}] a{index}={{{','.join(map(str, each))}}}"
        for index, each in enumerate(axes)
    )
    text = (
        f"agraph (float[n,5] x) => (float[...] y)\n<{numbers}>\n"
        "{ z = Relu(x)\n b = Unsqueeze(z, a0)\n c = Unsqueeze(b, a1)\n d = Unsqueeze(c, a2)\n"
        " y = Relu(d) }"
    )
    before = parsed(text.replace("float[...] y", "float y"))
    before.graph.output[0].type.tensor_type.ClearField("shape")
    after, operations, _ = fused(before)
    assert operations == {"Relu": 2, "Unsqueeze": 1}
    (wanted,), (found,) = run(before, {"x": X}), run(after, {"x": X})
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


def test_what_is_spread_to_the_sizes_that_it_has_is_as_it_is() -> None:
    text = (
        "agraph (float[n,5] x, float[1,5] w) => (float[n,5] y, float[n,5] z)\n"
        "{ s = Shape(x)\n a = Relu(x)\n b = Expand(a, s)\n y = Relu(b)\n"
        " c = Relu(w)\n d = Expand(c, s)\n z = Relu(d) }"
    )
    before = parsed(text)
    for value in before.graph.value_info:
        if value.name == "b":
            value.type.CopyFrom(before.graph.input[0].type)
    before.graph.value_info.append(before.graph.output[0])
    before.graph.value_info[-1].name = "b"
    after, operations, _ = fused(before)
    assert operations == {"Relu": 4, "Shape": 1, "Expand": 1}
    feeds = {"x": X, "w": X[:1]}
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


LOOKUP = """
  m0 = Cast <to=9> (mask)
  count0 = Shape <start=0, end=1> (mask)
  rows0 = Squeeze(count0)
  length0 = Shape <start=1, end=2> (mask)
  length = Squeeze(length0)
  rows1 = Range(none, rows0, one)
  rows = Unsqueeze(rows1, behind)
  places0 = Range(none, length, one)
  places = Unsqueeze(places0, front)
  sizes0 = Max(rows, places)
  sizes = Shape(sizes0)
  r = Expand(rows, sizes)
  p = Expand(places, sizes)
  r1 = Unsqueeze(r, last)
  p1 = Unsqueeze(p, last)
  index = Concat <axis=-1> (r1, p1)
  m = GatherND(m0, index)
  y = Not(m)
"""
NUMBERS = (
    "int64 none={0}, int64 one={1}, int64[1] last={-1}, int64[3] behind={1,2,3}, "
    "int64[3] front={0,1,2}"
)


@pytest.mark.parametrize("start", ["none", "first"])
def test_a_mask_that_is_looked_up_at_each_place_is_the_mask(start: str) -> None:
    """And not where it is looked up from another place on."""
    body = LOOKUP.replace("Range(none, length", f"Range({start}, length")
    text = (
        "agraph (int64[batch,sequence] mask) => (bool[batch,1,1,sequence] y)\n"
        f"<{NUMBERS}, int64 first={{1}}>\n{{{body}}}"
    )
    before = parsed(text)
    before.graph.output[0].type.tensor_type.ClearField("shape")
    after, operations, _ = fused(before)
    assert ("GatherND" in operations) == (start == "first")
    mask = {"mask": np.array([[1, 0, 1], [0, 1, 1]], np.int64)}
    np.testing.assert_array_equal(run(after, mask)[0], run(before, mask)[0])

"""Casts go before what only moves elements, and not a number changes."""

from __future__ import annotations

import numpy as np

from tests.fusion.graphs import Array, fused, parsed, run

RNG = np.random.default_rng(0)
HALF = RNG.standard_normal((2, 3, 4)).astype(np.float16)
WIDE = RNG.standard_normal((2, 5, 4)).astype(np.float32)


def test_half_that_was_only_moved_stays_half() -> None:
    before = parsed(
        "agraph (float16[2,3,4] x, float[2,5,4] y) => (float16[2,4,8] z, float16[2,8,4] u)\n"
        "<int64[3] sizes={2,4,8}>\n"
        "{ a = Cast <to=1> (x)\n b = Concat <axis=1> (a, y)\n u = Cast <to=10> (b)\n"
        "  c = Transpose <perm=[0,2,1]> (b)\n d = Reshape(c, sizes)\n z = Cast <to=10> (d) }"
    )
    after, operations, _ = fused(before)
    assert operations == {"Cast": 1, "Concat": 1, "Transpose": 1, "Reshape": 1}
    assert [value.name for value in after.graph.output] == ["z", "u"]
    feeds: dict[str, Array] = {"x": HALF, "y": WIDE}
    for wanted, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_what_is_computed_in_float32_is_cast_behind_that() -> None:
    before = parsed(
        "agraph (float16[2,3,4] x) => (float16[2,3,4] z)\n"
        "{ a = Cast <to=1> (x)\n b = Mul(a, a)\n z = Cast <to=10> (b) }"
    )
    _, operations, _ = fused(before)
    assert operations == {"Cast": 2, "Mul": 1}


def test_nothing_is_moved_for_a_cast_that_would_stay() -> None:
    before = parsed(
        "agraph (float[2,5,4] y) => (float16[2,4,5] z)\n"
        "{ c = Transpose <perm=[0,2,1]> (y)\n z = Cast <to=10> (c) }"
    )
    after, operations, _ = fused(before)
    assert operations == {"Cast": 1, "Transpose": 1}
    assert [node.op_type for node in after.graph.node] == ["Transpose", "Cast"]


def test_a_constant_is_kept_in_the_type_in_which_it_is_read() -> None:
    before = parsed(
        "agraph (float[2,5,4] y) => (float[2,5,4] z)\n{ w = Cast <to=1> (half)\n z = Mul(y, w) }",
        half=HALF[0, 0],
    )
    after, operations, _ = fused(before)
    assert operations == {"Mul": 1}
    np.testing.assert_array_equal(run(after, {"y": WIDE})[0], run(before, {"y": WIDE})[0])

"""Dynamic axes out of the sizes that calls have."""

from __future__ import annotations

import torch

from awqc.recording.calls import SeenCall
from awqc.recording.varying import varying_axes

Sizes = dict[str, tuple[int, ...]]


def axes_of(*calls: Sizes) -> dict[str, dict[int, str]]:
    return varying_axes(
        [SeenCall({name: torch.zeros(sizes) for name, sizes in call.items()}) for call in calls]
    )


def test_what_never_changes_is_fixed() -> None:
    assert axes_of({"x": (2, 3)}, {"x": (2, 3)}) == {}
    assert axes_of({"x": (2, 3)}) == {}
    assert axes_of({"x": ()}, {"x": ()}) == {}


def test_equal_sizes_in_all_calls_are_one_axis() -> None:
    found = axes_of({"x": (2, 7, 4), "mask": (2, 7)}, {"x": (3, 9, 4), "mask": (3, 9)})
    both = {0: "batch", 1: "x_axis_1"}
    assert found == {"x": both, "mask": both}


def test_sizes_that_are_equal_in_one_call_only_are_two_axes() -> None:
    found = axes_of({"image": (2, 3, 8, 8)}, {"image": (2, 3, 8, 9)}, {"image": (2, 3, 7, 9)})
    assert found == {"image": {2: "image_axis_2", 3: "image_axis_3"}}


def test_first_axes_that_differ_are_named_after_their_inputs() -> None:
    found = axes_of(
        {"ids": (3, 5), "mask": (3, 5), "image": (2, 8)},
        {"ids": (5, 7), "mask": (5, 7), "image": (3, 8)},
    )
    text = {0: "ids_batch", 1: "ids_axis_1"}
    assert found == {"ids": text, "mask": text, "image": {0: "image_batch"}}

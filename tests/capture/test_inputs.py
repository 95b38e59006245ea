"""Input specs, and inputs inferred from the first layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.inputs import (
    dynamic_axes,
    given_inputs,
    infer_example,
    inputs_from_arrays,
    make_example,
    parse_inputs,
)
from awqc.errors import UsageError


def test_specs_round_trip() -> None:
    texts = ["x=float32[batch,64]", "ids=int64[batch,seq]", "scale=float16[]"]
    specs = parse_inputs(texts)
    assert [str(spec) for spec in specs] == texts
    assert specs[0].dtype == torch.float32
    assert dynamic_axes(specs) == {"x": {0: "batch"}, "ids": {0: "batch", 1: "seq"}}
    assert parse_inputs([" x = bool[ batch , 3 ] "])[0].shape == ("batch", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float32[batch,64]", "cannot be read; the form is name=float32"),
        ("x=float32", "cannot be read"),
        ("x=float33[2]", "'float33' is no dtype"),
        ("x=nn[2]", "'nn' is no dtype"),
        ("x=float32[2,-1]", "'-1' is no size"),
        ("x=float32[0]", "'0' is no size"),
        ("x=float32[2,]", "'' is no size"),
    ],
)
def test_wrong_specs(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_inputs([text])


def test_a_name_given_twice() -> None:
    with pytest.raises(UsageError, match="'x' is given twice"):
        parse_inputs(["x=float32[2]", "x=int64[2]"])


def test_examples_are_seeded_and_equal_names_are_equal_sizes() -> None:
    specs = parse_inputs(["ids=int64[batch,seq]", "mask=bool[batch,seq]", "x=bfloat16[batch,4]"])
    example = make_example(specs, seed=3, rows=5)
    again = make_example(specs, seed=3, rows=5)
    assert all(torch.equal(example[name], again[name]) for name in example)
    assert example["ids"].shape == example["mask"].shape == (2, 16)
    assert 0 <= int(example["ids"].min()) <= int(example["ids"].max()) < 5
    assert not example["mask"][:, 0].any()
    assert example["mask"][:, -1].all()
    assert example["x"].dtype == torch.bfloat16


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.small = nn.Embedding(3, 4)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.table(ids) + self.small(kinds)  # type: ignore[no-any-return]  # a module's call is Any


def test_given_inputs_stay_in_the_smallest_table() -> None:
    specs = parse_inputs(["ids=int64[batch,seq]", "kinds=int64[batch,seq]"])
    example = given_inputs(Pair(), specs, seed=0)
    assert int(max(example["ids"].max(), example["kinds"].max())) < 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["ids=int64[2]"], "'kinds' is missing"),
        (["ids=int64[2]", "kinds=int64[2]", "z=int64[2]"], "'z' is not one"),
    ],
)
def test_given_inputs_that_forward_does_not_take(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        given_inputs(Pair(), parse_inputs(texts), seed=0)
    assert "forward takes (ids, kinds, mask=None)" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "shape", "dtype"),
    [
        (nn.Linear(8, 4), (2, 8), torch.float32),
        (nn.Linear(8, 4).half(), (2, 8), torch.float16),
        (nn.Linear(8, 4).bfloat16(), (2, 8), torch.bfloat16),
        (nn.Sequential(nn.ReLU(), nn.Conv1d(3, 4, 3)), (2, 3, 32), torch.float32),
        (nn.Conv2d(3, 4, 3), (2, 3, 32, 32), torch.float32),
        (nn.Conv3d(3, 4, 3), (2, 3, 32, 32, 32), torch.float32),
        (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)), (2, 16), torch.int64),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 4)),
            (2, 1, 28, 28),
            torch.float32,
        ),
    ],
)
def test_inferred(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    (example,) = infer_example(module.train())
    assert (tuple(example.shape), example.dtype) == (shape, dtype)
    assert module.training


class Unused(nn.Module):
    """Its first layer is not the one that reads the input."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(8, 4)
        self.early = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x))  # type: ignore[no-any-return]  # a module's call is Any


@pytest.mark.parametrize("module", [Pair(), Unused(), nn.ReLU(), nn.LayerNorm(4), nn.LSTM(8, 4)])
def test_not_inferred_where_there_is_a_doubt(module: nn.Module) -> None:
    told = r"cannot be inferred.*inputs=\['\w+=float32\[batch,64\]'"
    with pytest.raises(UsageError, match=told):
        infer_example(module)


def test_inputs_from_arrays() -> None:
    ids = torch.zeros(9, 3, dtype=torch.int64)
    example = inputs_from_arrays(Pair(), {"ids": ids, "kinds": ids, "labels": ids})
    assert example is not None
    assert {name: tuple(t.shape) for name, t in example.items()} == {
        "ids": (2, 3),
        "kinds": (2, 3),
    }
    assert inputs_from_arrays(Pair(), {"ids": ids}) is None
    half = inputs_from_arrays(nn.Linear(8, 4).half(), {"input": torch.zeros(9, 8)})
    assert half is not None
    assert half["input"].dtype == torch.float16


def test_an_example_beyond_the_memory_is_refused() -> None:
    specs = parse_inputs(["x=float32[batch,99999999999999]"])
    with pytest.raises(UsageError, match=r"'x': the example would take 800000\.0 GB"):
        make_example(specs)

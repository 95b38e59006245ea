"""Calibration data from files, iterables and a seed; each bad input is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.data.batches import take
from awqc.data.calibration import (
    CalibrationData,
    embedding_rows,
    from_arrays,
    from_iterable,
    from_mapping,
    synthetic,
)
from awqc.data.load import DataSource
from awqc.errors import CalibrationError, UsageError
from awqc.program import Program


def load_file(path: Path, program: Program, num_samples: int | None = None) -> CalibrationData:
    return DataSource.of(path).load(program, num_samples=num_samples)


class Net(nn.Module):
    """An index input, a float input and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.kinds = nn.Embedding(3, 8)
        self.l = nn.Linear(8, 4)

    def forward(self, ids: Tensor, x: Tensor, keep: Tensor) -> Tensor:
        both = self.table(ids) + self.kinds(ids.view(-1).reshape(ids.shape))
        return self.l((both + x) * keep.unsqueeze(-1))  # type: ignore[no-any-return]  # a module's call is Any


@pytest.fixture(scope="module")
def mlp() -> Program:
    return capture_module(nn.Linear(8, 4), (torch.randn(2, 8),))


@pytest.fixture(scope="module")
def fixed() -> Program:
    net = nn.Sequential(nn.Unflatten(0, (2, 2)), nn.Flatten(0, 1), nn.Linear(8, 4))
    exported = torch.export.export(net, (torch.randn(4, 8),))
    from awqc.capture.exported import program_from_exported

    return program_from_exported(exported)


@pytest.fixture(scope="module")
def net() -> Program:
    example = {
        "ids": torch.randint(0, 3, (2, 5)),
        "x": torch.randn(2, 5, 8),
        "keep": torch.ones(2, 5, dtype=torch.bool),
    }
    return capture_module(Net(), example, dynamic={name: {1: "seq"} for name in example})


def samples(data: CalibrationData, name: str = "input") -> tuple[Tensor, Tensor]:
    return (
        torch.cat([batch[name] for batch in data.batches]),
        torch.cat([batch[name] for batch in data.held_out]),
    )


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt"])
def test_files(kind: str, tmp_path: Path, mlp: Program) -> None:
    x = torch.arange(320.0).reshape(40, 8)
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, input=x.numpy())
    elif kind == "safetensors":
        save_file({"input": x}, path)
    else:
        torch.save({"input": x}, path)
    data = load_file(path, mlp)
    seen, held = samples(data)
    assert len(seen) == 32
    assert len(held) == 8
    assert set(seen[:, 0].tolist()).isdisjoint(held[:, 0].tolist())
    assert not data.synthetic
    assert not data.notes
    assert data.source == str(path)
    seen, held = samples(load_file(path, mlp, num_samples=10))
    assert len(seen) + len(held) == 10
    assert max(seen.max(), held.max()) < 80


def test_float_and_integer_widths_are_cast_and_noted(net: Program) -> None:
    arrays = {
        "ids": torch.zeros(6, 5, dtype=torch.int32),
        "x": torch.randn(6, 5, 8, dtype=torch.float64),
        "keep": torch.ones(6, 5, dtype=torch.bool),
    }
    data = from_arrays(arrays, net, None, "arrays")
    assert data.batches[0]["ids"].dtype == torch.int64
    assert data.batches[0]["x"].dtype == torch.float32
    assert data.notes == ("ids: cast from int32 to int64", "x: cast from float64 to float32")


def good(net: Program) -> dict[str, Tensor]:
    return {
        "ids": torch.zeros(6, 5, dtype=torch.int64),
        "x": torch.randn(6, 5, 8),
        "keep": torch.ones(6, 5, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y", torch.zeros(6), "'y' is no input; the model's inputs are ids=int64"),
        ("x", None, "no array for 'x'"),
        ("x", torch.randn(6, 5), "'x' has 2 axes"),
        ("x", torch.randn(6, 5, 9), "size 9 on axis 2"),
        ("x", torch.randn(6, 4, 8), r"size 4 on its axis 1 \(seq\), but 'ids' has 5"),
        ("x", torch.randn(7, 5, 8), "differ in their samples"),
        ("x", torch.zeros(6, 5, 8, dtype=torch.int64), "is int64; the model takes float32"),
        ("ids", torch.zeros(6, 5), "is float32; the model takes int64"),
        ("keep", torch.ones(6, 5, dtype=torch.int64), "is int64; the model takes bool"),
        ("x", torch.full((6, 5, 8), torch.nan), "holds NaN"),
        ("x", torch.full((6, 5, 8), torch.inf), "holds inf"),
        ("x", torch.full((6, 5, 8), 1e300, dtype=torch.float64), "too large for float32"),
        ("ids", torch.full((6, 5), 3), "index 3; its embedding table has the rows 0 to 2"),
        ("ids", torch.full((6, 5), -1), "index -1"),
        ("ids", torch.zeros(0, 5, dtype=torch.int64), "is empty"),
    ],
)
def test_bad_arrays(net: Program, name: str, value: Tensor | None, message: str) -> None:
    arrays = good(net)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(CalibrationError, match=message):
        from_arrays(arrays, net, None, "data.npz")


def test_integers_that_do_not_fit() -> None:
    program = capture_module(nn.Embedding(4, 8), (torch.zeros(2, 3, dtype=torch.int32),))
    with pytest.raises(CalibrationError, match="do not fit int32"):
        from_arrays({"input": torch.full((2, 3), 1 << 40)}, program, None, "data.npz")


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit",)


def test_bad_files(tmp_path: Path, mlp: Program) -> None:
    def check(name: str, message: str, kind: type[Exception] = CalibrationError) -> None:
        with pytest.raises(kind, match=message):
            load_file(tmp_path / name, mlp)

    check("absent.npz", "no such calibration file", UsageError)
    (tmp_path / "text.npz").write_text("not arrays at all")
    check("text.npz", "no file of arrays")
    (tmp_path / "empty.pt").touch()
    check("empty.pt", "no file of arrays")
    np.save(tmp_path / "single.npy", np.zeros((3, 8)))
    check("single.npy", "single array without a name")
    np.savez(tmp_path / "objects.npz", input=np.array([{}, 3], dtype=object))
    check("objects.npz", "cannot be read")
    np.savez(tmp_path / "words.npz", input=np.array(["a", "b"]))
    check("words.npz", "'input' is an array of <U1")
    np.savez(tmp_path / "none.npz")
    check("none.npz", "holds no arrays")
    torch.save({"input": Boom()}, tmp_path / "code.pt")
    check("code.pt", "other objects")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    check("tensor.pt", "holds a Tensor")
    torch.save({"input": [1.0]}, tmp_path / "list.pt")
    check("list.pt", "'input' is a list")
    save_file({"input": torch.zeros(3, 8)}, tmp_path / "whole.safetensors")
    cut = (tmp_path / "whole.safetensors").read_bytes()[:-8]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    check("cut.safetensors", "damaged")


@pytest.mark.parametrize("count", [0, -3])
def test_num_samples_must_be_positive(count: int, mlp: Program) -> None:
    with pytest.raises(UsageError, match="num_samples"):
        from_iterable([torch.zeros(2, 8)], mlp, count)


def test_fixed_batch_drops_a_short_end_and_says_so(fixed: Program) -> None:
    data = from_arrays({"input": torch.randn(14, 8)}, fixed, None, "data.npz")
    assert [len(b["input"]) for b in (*data.batches, *data.held_out)] == [4, 4, 4]
    assert data.notes == ("the last 2 samples are left out: the batch is fixed at 4",)
    with pytest.raises(CalibrationError, match="3 samples; the model takes them 4 at a time"):
        from_arrays({"input": torch.randn(3, 8)}, fixed, None, "data.npz")
    with pytest.raises(CalibrationError, match="size 3 on axis 0"):
        from_iterable([torch.randn(3, 8)], fixed)


def test_a_single_sample_serves_both_and_says_so(mlp: Program) -> None:
    data = from_arrays({"input": torch.randn(1, 8)}, mlp, None, "data.npz")
    assert data.held_out == data.batches
    assert "too little data" in data.notes[0]


@pytest.mark.parametrize(
    "batch",
    [torch.ones(3, 8), (torch.ones(3, 8),), {"input": torch.ones(3, 8)}, np.ones((3, 8), "f4")],
)
def test_batches_in_any_form(batch: Any, mlp: Program) -> None:
    data = from_iterable([batch] * 5, mlp)
    assert len(data.batches) == 4
    assert len(data.held_out) == 1
    torch.testing.assert_close(data.batches[0]["input"], torch.ones(3, 8))


def test_a_generator_is_read_once_and_no_further_than_needed(mlp: Program) -> None:
    drawn = []

    def endless() -> Iterator[tuple[Tensor]]:
        while True:
            drawn.append(1)
            yield (torch.randn(4, 8),)

    data = from_iterable(endless(), mlp, num_samples=10)
    seen, held = samples(data)
    assert len(seen) + len(held) == 10
    assert len(drawn) == 3


def test_whole_arrays_by_name(tmp_path: Path, mlp: Program) -> None:
    x = torch.arange(320.0).reshape(40, 8)
    np.savez(tmp_path / "data.npz", input=x.numpy())
    from_file = load_file(tmp_path / "data.npz", mlp)
    for given in ({"input": x}, {"input": x.numpy()}, np.load(tmp_path / "data.npz")):
        data = from_mapping(given, mlp)
        assert len(data.batches) == len(from_file.batches)
        assert torch.equal(samples(data)[0], samples(from_file)[0])
        assert torch.equal(samples(data)[1], samples(from_file)[1])
    with pytest.raises(CalibrationError, match=r"the calibration data: .other. is no input"):
        from_mapping({"other": x}, mlp)


def test_positional_and_nested_batches() -> None:
    class Nested(nn.Linear):
        def forward(self, x: Tensor, kv: Any = None, scale: float = 1.0) -> Tensor:  # type: ignore[override]  # another forward than the base's
            return super().forward(x + kv[0]["k"]) * scale

    example = (torch.randn(2, 8), [{"k": torch.randn(2, 8)}], 2.0)
    program = capture_module(Nested(8, 4), example)
    by_name = {"kv": example[1], "x": example[0]}
    for batch in (example, by_name):
        data = from_iterable([batch, batch], program)
        torch.testing.assert_close(data.batches[0]["kv_0_k"], example[1][0]["k"])  # type: ignore[index]  # a nest that mypy cannot follow


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "is empty"),
        ([3], "batch 0 is a int"),
        ([(torch.zeros(2, 8),) * 2], "batch 0 has 2 tensors; the model's inputs are input="),
        ([{"x": torch.zeros(2, 8)}], "'x' is no input"),
        ([torch.zeros(2, 8), torch.zeros(2, 7)], "batch 1: 'input' has the size 7"),
        ([torch.full((2, 8), torch.nan)], "batch 0: 'input' holds NaN"),
        ([torch.zeros(0, 8)], "is empty"),
    ],
)
def test_bad_batches(batches: list[Any], message: str, mlp: Program) -> None:
    with pytest.raises(CalibrationError, match=message):
        from_iterable(batches, mlp)


@pytest.mark.parametrize("calib", [3, torch.zeros(2, 8), {"input": torch.zeros(2, 8)}])
def test_no_iterable_of_batches(calib: Any, mlp: Program) -> None:
    with pytest.raises(UsageError, match="iterable of batches"):
        from_iterable(calib, mlp)


def test_synthetic_data_runs_and_says_what_it_is(net: Program) -> None:
    data, again = synthetic(net, 40, seed=7), synthetic(net, 40, seed=7)
    assert data.synthetic
    assert "random inputs were made up" in data.notes[0]
    assert data.source == "synthetic data, seed 7"
    for batch, same in zip(data.batches, again.batches, strict=True):
        assert all(torch.equal(batch[name], same[name]) for name in batch)
        assert int(batch["ids"].max()) < 3
        assert torch.isfinite(net.run(batch)[0]).all()
    seen, held = samples(data, "ids")
    assert len(seen) + len(held) == 40
    assert not torch.equal(synthetic(net, 40, seed=8).batches[0]["x"], data.batches[0]["x"])


def test_samples_may_lie_along_another_axis() -> None:
    """As those of positions, of which each token has three."""

    class Positioned(nn.Module):
        def forward(self, x: Tensor, places: Tensor) -> Tensor:
            return x * places.sum(0)[..., None]

    program = capture_module(
        Positioned(),
        (torch.randn(2, 5, 8), torch.ones(3, 2, 5)),
        dynamic={"x": {0: "batch", 1: "tokens"}, "places": {1: "batch", 2: "tokens"}},
        fixed=[("places", 0)],
    )
    assert [spec.shape for spec in program.inputs] == [
        ("batch", "tokens", 8),
        (3, "batch", "tokens"),
    ]
    (batch,) = synthetic(program, 1).batches[:1]
    whole = program.run(batch)[0]
    one = take(batch, program.inputs, slice(0, 1))
    assert one["places"].shape == (3, 1, 5)
    assert torch.equal(program.run(one)[0], whole[:1])
    sizes = {each["places"].shape[1] for each in synthetic(program, 40).batches}
    assert max(sizes) > 2


def test_synthetic_data_where_some_inputs_fix_the_batch() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(8, 4)

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            rows = self.l(x).reshape(3, 4)
            return torch.stack([rows[i] * keep[i] for i in range(3)])

    program = capture_module(Rows(), (torch.randn(3, 8), torch.randn(3, 4)))
    assert [spec.shape[0] for spec in program.inputs] == [3, "batch"]
    for batch in synthetic(program, 1).batches:
        assert program.run(batch)[0].shape == (3, 4)


def test_synthetic_data_of_a_fixed_batch_and_of_zeros(fixed: Program) -> None:
    data = synthetic(fixed, 1)
    assert data.batches[0]["input"].shape == (4, 8)
    assert not torch.equal(data.batches[0]["input"], data.held_out[0]["input"])
    zeros = capture_module(nn.Linear(8, 4), (torch.zeros(1, 8),))
    assert synthetic(zeros).batches[0]["input"].std() > 0.5


def test_embedding_rows_are_found_through_shape_operations(net: Program) -> None:
    assert embedding_rows(net) == {"ids": 3}

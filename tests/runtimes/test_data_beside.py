"""A large model is opened from a copy with its weights beside it, and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from awqc.runtimes import data_beside as tested
from awqc.runtimes.data_beside import data_beside
from awqc.runtimes.onnxruntime import open_model


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``y = x @ w`` with a matrix of 16 KB."""
    monkeypatch.setattr(tested, "SMALL", 2**10)
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 64]) for n in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y])
    graph.initializer.append(weight)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_weights_lie_beside_the_copy_and_the_file_stays(file: Path) -> None:
    before = file.read_bytes()
    place, held = data_beside(file)
    assert held is not None
    assert place.with_name("model.onnx.data").stat().st_size >= 64 * 64 * 4
    assert place.stat().st_size < 2**10
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    assert data_beside(place) == (place, None)  # it has them there already


@pytest.mark.parametrize("exact", [True, False])
def test_it_computes_the_same_and_leaves_nothing(exact: bool, file: Path) -> None:
    x = torch.randn(3, 64)
    session = open_model(file, exact=exact)
    (made,) = session.run({"x": x})
    weight = numpy_helper.to_array(onnx.load(file).graph.initializer[0])
    torch.testing.assert_close(made, x @ torch.from_numpy(weight.copy()))
    place = session.held.path  # type: ignore[attr-defined]  # a folder
    assert place.is_dir()
    del session
    assert not place.exists()


def test_a_small_or_damaged_one_is_opened_as_it_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(b"\xff" * 4096)
    assert data_beside(file) == (file, None)
    monkeypatch.setattr(tested, "SMALL", 2**20)
    assert data_beside(file) == (file, None)

"""Nearest resizing in ONNX: the same neighbours as torch, in two runtimes, at many sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.export.nearest import quotient
from awqc.export.onnx import export_onnx

resized = nn.functional.interpolate
Form = Callable[[Tensor], Tensor]
FORMS: dict[str, Form] = {
    "doubled": lambda a: resized(a, scale_factor=2.0),
    "doubled along one axis": lambda a: resized(a, scale_factor=(1.0, 2.0)),
    "halved": lambda a: resized(a, scale_factor=0.5),
    "by three": lambda a: resized(a, scale_factor=3.0),
    "by a fraction": lambda a: resized(a, scale_factor=1.7),
    "to a size": lambda a: resized(a, size=(29, 31)),
    "to a free size": lambda a: resized(a[..., ::2, ::3], size=a.shape[2:]),
    "exact, doubled": lambda a: resized(a, scale_factor=2.0, mode="nearest-exact"),
    "exact, to a free size": lambda a: resized(
        a[..., ::2, ::3], size=a.shape[2:], mode="nearest-exact"
    ),
    "lines": lambda a: resized(a.flatten(2), scale_factor=2.0),
    "lines to a free size": lambda a: resized(a[..., 0], size=a.shape[3]),
    "blocks": lambda a: resized(a.unsqueeze(2), scale_factor=2.0),
    "blocks to a free size": lambda a: resized(a.unsqueeze(2), size=(3, a.shape[3], a.shape[2])),
}
STAYS = {"doubled", "doubled along one axis", "halved", "lines", "blocks"}
"""By powers of two alone."""


class Applied(nn.Module):
    def __init__(self, *functions: Form) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x - 1) for function in self.functions)


def exported(module: nn.Module, path: Path) -> Path:
    program = capture_module(module, (torch.randn(2, 3, 16, 24),), dynamic={"x": [2, 3]})
    export_onnx(program, path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_each_form_picks_what_torch_picks(form: str, tmp_path: Path) -> None:
    module = Applied(FORMS[form])
    path = exported(module, tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("Resize" in kinds) == (form in STAYS)
    assert "GatherND" not in kinds  # what torch's own definition becomes, several times slower
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 16, 24), (1, 3, 41, 82), (3, 3, 7, 47), (1, 3, 94, 2)):
        x = torch.randn(shape)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_array_equal(found, module(x)[0].numpy())


def test_what_runtimes_do_not_resize_is_picked(tmp_path: Path) -> None:
    module, x = Applied(FORMS["doubled"]), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    export_onnx(capture_module(module, (x,), dynamic={"x": [2, 3]}), tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(found, module(x)[0].numpy())


class ToTheOther(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return resized(x, size=other.shape[2])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., object]]:
    """A line resized to the length of another, in each runtime."""
    openvino = pytest.importorskip("openvino")
    path = tmp_path_factory.mktemp("line") / "model.onnx"
    lines = (torch.randn(1, 1, 16), torch.randn(1, 1, 24))
    program = capture_module(ToTheOther(), lines, dynamic={"x": [2], "other": [2]})
    export_onnx(program, path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        "onnxruntime": lambda x, other: session.run(None, {"x": x, "other": other})[0],
        "openvino": lambda x, other: compiled({"x": x, "other": other})[0],
    }


@given(size=st.integers(2, 300), wanted=st.integers(2, 300))
def test_a_size_by_another_picks_what_torch_picks(
    runs: dict[str, Callable[..., object]], size: int, wanted: int
) -> None:
    x, other = torch.arange(size).float().view(1, 1, -1), torch.zeros(1, 1, wanted)
    right = resized(x, size=wanted).numpy()
    for name, run in runs.items():
        np.testing.assert_array_equal(run(x.numpy(), other.numpy()), right, err_msg=name)


@pytest.mark.parametrize(("size", "wanted"), [(47, 94), (2, 82), (82, 2), (41, 287), (293, 7)])
def test_sizes_whose_reciprocal_is_off(
    runs: dict[str, Callable[..., object]], size: int, wanted: int
) -> None:
    test_a_size_by_another_picks_what_torch_picks.hypothesis.inner_test(runs, size, wanted)  # type: ignore[attr-defined]  # hypothesis adds it


def test_a_quotient_is_exact_where_division_is_a_product_with_the_reciprocal() -> None:
    """As OpenVINO divides: of all pairs of sizes below 4096, a quarter comes out off."""

    class Reciprocal(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.Tensor.div, torch.Tensor.__truediv__):
                return args[0] * args[1].reciprocal()
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]  # torch declares no types

    sizes = torch.arange(1.0, 4096.0)
    of, by = (each.as_subclass(Reciprocal) for each in (sizes[:, None], sizes[None]))  # type: ignore[no-untyped-call]  # torch declares no types
    right = sizes[:, None] / sizes[None]
    assert (of / by != right).any()
    assert (quotient(of, by) == right).all()

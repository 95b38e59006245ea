from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from awqc.calling import example_call, restore_calls
from awqc.capture.module import capture_module
from awqc.export.pt2 import export_pt2
from awqc.numerics.formats.int_grid import IntGrid
from tests.export.quantizing import captured, in_torch_alone, quantized, relative_error


class Branches(nn.Module):
    """Keyword inputs, a flag, nested inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 16)

    def forward(
        self, pair: tuple[Tensor, Tensor], flag: bool = True, *, mask: Tensor | None = None
    ) -> dict[str, Any]:
        x, y = pair
        hidden = self.a(x) + (y if flag else -y)
        hidden = hidden if mask is None else hidden * mask
        return {"out": self.b(hidden), "nothing": None, "more": [hidden, y]}


def branches() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    pair = (torch.randn(3, 32), torch.randn(3, 32))
    return Branches(), (pair, False), {"mask": torch.rand(3, 32)}


class Keyworded(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pair: Any, flag: bool, mask: Tensor) -> Any:
        return self.inner(pair, flag, mask=mask)


def test_restored_module_is_called_as_the_original() -> None:
    inner, (pair, flag), kwargs = branches()
    module = Keyworded(inner)
    program = capture_module(module, {"pair": pair, "flag": flag, **kwargs})
    restored = restore_calls(program)
    fresh = {"mask": torch.rand(5, 32), "flag": False, "pair": (torch.randn(5, 32),) * 2}
    found, wanted = restored(**fresh), module(**fresh)
    assert list(found) == list(wanted)
    assert found["nothing"] is None
    torch.testing.assert_close(found, wanted)


def test_restored_module_shares_tensors_and_keeps_the_program_flat() -> None:
    program = captured(nn.Linear(8, 4), torch.randn(2, 8))
    restored = restore_calls(program)
    assert program.weight("weight").data_ptr() == restored.weight.data_ptr()  # type: ignore[operator,union-attr]  # a buffer, which mypy takes for a module
    assert isinstance(program.run(program.example), tuple)


@pytest.mark.parametrize("bits", [2, 3])
def test_archive_runs_with_torch_alone(bits: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    program = quantized(captured(model, torch.randn(3, 256)), IntGrid(bits, 64))
    path = export_pt2(program, tmp_path / "model.pt2").path
    storage = 4 if bits == 3 else bits
    assert path.stat().st_size < 2 * 256 * 256 * storage / 8 + 100_000
    x = torch.randn(7, 256)
    wanted = program.run({program.inputs[0].name: x})
    assert relative_error(in_torch_alone(path, x), wanted) < 1e-6


def test_archive_keeps_calls_and_dynamic_axes(tmp_path: Path) -> None:
    inner, (pair, flag), kwargs = branches()
    program = capture_module(Keyworded(inner), {"pair": pair, "flag": flag, **kwargs})
    quantized(program, IntGrid(4, 16))
    loaded = torch.export.load(export_pt2(program, tmp_path / "m.pt2").path).module()
    args, call = example_call(program)
    call = {**call, "mask": torch.rand(9, 32), "pair": (torch.randn(9, 32), torch.randn(9, 32))}
    found, wanted = loaded(*args, **call), restore_calls(program)(*args, **call)
    torch.testing.assert_close(found["out"], wanted["out"])
    assert found["nothing"] is None


class Places(nn.Module):
    """Adds to each point of an image something of where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[1:3]
        rows = torch.meshgrid(torch.arange(wide), torch.arange(high), indexing="xy")
        places = torch.stack(rows).reshape([2, 1, wide, high]).reshape(2, -1).sum(0)
        return torch.relu(self.mix(x)) + places.reshape(high, wide, 1)


def test_an_archive_of_an_example_that_is_no_square_takes_squares(tmp_path: Path) -> None:
    axes = {"x": {0: "b", 1: "h", 2: "w"}}
    program = capture_module(Places(), (torch.randn(2, 6, 10, 32),), dynamic=axes)
    quantized(program, IntGrid(8, 16))
    path = export_pt2(program, tmp_path / "model.pt2").path
    for high, wide in ((6, 10), (7, 7), (5, 4)):
        x = torch.randn(3, high, wide, 32)
        wanted = program.run({"x": x})
        assert relative_error(in_torch_alone(path, x), wanted) < 1e-6
    with pytest.raises(AssertionError, match=r"size\(\)\[3\] == 32"):
        torch.export.load(path).module()(torch.randn(3, 6, 10, 16))


class Behind(nn.Module):
    """Adds places out of a table to tokens that stand behind a past, which may be empty."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.table = nn.Linear(32, 32), nn.Parameter(torch.randn(16, 32))

    def forward(self, tokens: Tensor, past: Tensor) -> Tensor:
        count = past.shape[1] + tokens.shape[1]
        return torch.relu(self.mix(torch.cat([past, tokens], 1))) + self.table[:count]


def test_an_archive_takes_as_many_tokens_as_fit_behind_an_empty_past(tmp_path: Path) -> None:
    axes = {"tokens": {0: "b", 1: "n"}, "past": {0: "b", 1: "p"}}
    example = {"tokens": torch.randn(2, 3, 32), "past": torch.randn(2, 5, 32)}
    program = capture_module(Behind(), example, dynamic=axes)
    quantized(program, IntGrid(8, 16))
    path = export_pt2(program, tmp_path / "model.pt2").path
    for count, past in ((3, 5), (16, 0), (1, 15), (1, 0)):
        batch = {"tokens": torch.randn(2, count, 32), "past": torch.randn(2, past, 32)}
        assert relative_error(in_torch_alone(path, *batch.values()), program.run(batch)) < 1e-6
    loaded = torch.export.load(path).module()
    with pytest.raises(AssertionError, match=r"Guard failed: .* <= 16"):
        loaded(tokens=torch.randn(2, 9, 32), past=torch.randn(2, 8, 32))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is full")
def test_a_full_disk_is_an_error_that_can_be_caught() -> None:
    program = quantized(captured(nn.Linear(64, 64), torch.randn(2, 64)), IntGrid(4, 32))
    with pytest.raises(OSError, match="No space left"):
        export_pt2(program, Path("/dev/full"))


class Point(NamedTuple):
    """A class that only this process knows."""

    x: Tensor
    y: Tensor


class Pointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(32, 16)

    def forward(self, point: Point) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.a(point.x) + self.a(point.y))


def test_objects_of_other_classes_are_dicts_in_an_archive(tmp_path: Path) -> None:
    """Who opens the archive in torch alone has neither the caller's classes nor transformers'."""
    module = Pointed()
    point = Point(torch.randn(3, 32), torch.randn(3, 32))
    program = capture_module(module, (point,))
    assert program.outputs == ("last_hidden_state",)
    export_pt2(program, tmp_path / "model.pt2")
    torch.save(point._asdict(), tmp_path / "point.pt")
    code = (
        "import torch; model = torch.export.load('model.pt2').module(); "
        "found = model(torch.load('point.pt')); torch.save(dict(found), 'found.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "found.pt")
    torch.testing.assert_close(found, dict(module(point)))
    assert isinstance(restore_calls(program)(point), BaseModelOutput)  # here it is as it was


def test_a_parameter_of_no_elements_is_written(tmp_path: Path) -> None:
    """As of a model that may have some tokens of its own, and has none."""

    class Registered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.none = nn.Parameter(torch.from_numpy(np.empty((1, 0, 4), np.float32)))

        def forward(self, x: Tensor) -> Tensor:
            more = self.none.expand(x.shape[0], -1, -1)
            out: Tensor = self.layer(torch.cat([more, x], dim=1))
            return out

    module = Registered()
    program = capture_module(module, (torch.randn(2, 5, 4),), copy=False)
    export_pt2(program, tmp_path / "model.pt2")
    x = torch.randn(3, 5, 4)
    found = torch.export.load(tmp_path / "model.pt2").module()(x)
    torch.testing.assert_close(found, module(x))

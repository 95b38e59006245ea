"""Codes of a recipe, from every kind of folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from awqc.artifacts.recipe_codes import CODES_FILE, read_codes, weight_of_codes, write_codes
from awqc.compiler import Compiled, compile_graph
from awqc.errors import UsageError
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from tests.export.quantizing import captured, quantized
from tests.pt2.attacks import ATTACKS, MARK

ONNX, ORT = "model.onnx", "ort/model.onnx"


class Tied(nn.Module):
    """An embedding table that the head shares, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(48, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 48, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.inner(self.table(ids))))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(32, 32, batch_first=True), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0])
        return out


class SideBySide(nn.Module):
    """Three linear layers that read one value, two of them with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 16), nn.Linear(32, 8, bias=False), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        return torch.cat([self.q(x), torch.relu(self.k(x)), self.v(x)], -1)


NETS: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "ragged": (lambda: nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 8)),
               (torch.ones(2, 40),)),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1)),
                     (torch.ones(1, 4, 6, 6),)),
    "tied": (Tied, (torch.arange(6).reshape(2, 3),)),
    "side by side": (SideBySide, (torch.ones(2, 32),)),
    "recurrent": (Recurrent, (torch.ones(1, 4, 32),)),
    "half": (lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).bfloat16(),
             (torch.ones(2, 64, dtype=torch.bfloat16),)),
}  # fmt: skip


def made(name: str, folder: Path, **options: Any) -> Compiled:
    torch.manual_seed(0)
    net, x = NETS[name]
    calib = None if "recipe" in options else [x] * 3
    options.setdefault("max_loss", math.inf)  # what comes back is compared, not what was lost
    return compile_graph(net(), x, calib, provider="cpu", output_dir=folder, **options)


def same(first: Compiled, again: Compiled) -> None:
    old, new = (dict(c.graph_module.named_buffers()) for c in (first, again))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_a_recipe_reads_the_published_model(name: str, form: str, tmp_path: Path) -> None:
    """There is no second copy of the codes, and the repeat has the same bits."""
    first = made(name, tmp_path / "a", formats=(form,), bits=4)
    assert not (tmp_path / "a" / CODES_FILE).exists()
    same(first, made(name, tmp_path / "b", formats=(form,), recipe=tmp_path / "a"))
    model = ONNX if form == "onnx" else ORT
    models = [onnx.load(tmp_path / folder / model) for folder in "ab"]
    assert [i.raw_data for i in models[0].graph.initializer] == [
        i.raw_data for i in models[1].graph.initializer
    ]


def test_a_recipe_reads_the_archive(tmp_path: Path) -> None:
    first = made("ragged", tmp_path / "a", formats=("pt2",), bits=3)
    assert not (tmp_path / "a" / CODES_FILE).exists()
    same(first, made("ragged", tmp_path / "b", formats=("pt2",), recipe=tmp_path / "a"))


def folder_of(program: Program, folder: Path, form: str) -> Path:
    from awqc.export.formats import FORMATS

    folder.mkdir()
    FORMATS[form](program, folder, {})
    return folder


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric"),
    [
        *((2, -1, False), (2, 16, True), (3, 16, True), (3, 48, False), (3, -1, True)),
        *((4, 48, True), (4, 16, False), (4, 96, False), (8, -1, True), (8, 48, False)),
    ],
)
def test_every_granularity_is_read_back(
    bits: Any, group_size: int, symmetric: bool, tmp_path: Path
) -> None:
    granularity = IntGrid(bits, group_size, symmetric)
    net = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 8))
    program = quantized(captured(net, torch.randn(3, 96)), granularity)
    for form in ("onnx", "ort"):
        folder = folder_of(program, tmp_path / form, form)
        write_codes(program, folder)
        assert not (folder / CODES_FILE).exists()
        codes = read_codes(folder)
        for name, wanted in program.findings.quantized.items():
            like = torch.empty(wanted.shape)
            found = weight_of_codes(codes, name, like, wanted.format)
            assert set(found.tensors) == set(wanted.tensors)
            for role, tensor in wanted.tensors.items():
                assert torch.equal(found.tensors[role], tensor), role


def small() -> Program:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    return quantized(captured(net, torch.randn(3, 64)), IntGrid(4, 32))


@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_only_what_no_model_holds_exactly_is_written_again(form: str, tmp_path: Path) -> None:
    program = small()
    folder = folder_of(program, tmp_path / "out", form)
    old = program.findings.quantized["2.weight"]
    other = old.with_tensors({"packed": old.tensors["packed"] ^ 1})
    program.learn(quantized={**program.findings.quantized, "2.weight": other})
    write_codes(program, folder)
    assert set(load_file(folder / CODES_FILE)) == {
        "2.weight.packed", "2.weight.scale", "2.weight.zero_point",
    }  # fmt: skip
    codes = read_codes(folder)
    for name, wanted in program.findings.quantized.items():
        found = weight_of_codes(codes, name, torch.empty(wanted.shape), wanted.format)
        assert torch.equal(found.tensors["packed"], wanted.tensors["packed"])


def test_without_a_published_model_all_codes_are_written(tmp_path: Path) -> None:
    program = small()
    write_codes(program, tmp_path)
    assert len(load_file(tmp_path / CODES_FILE)) == 6


def test_a_recipe_runs_no_code_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ATTACKS["pickled weight"].write(tmp_path / "model.pt2")
    with pytest.raises(UsageError, match="a pickled object"):
        read_codes(tmp_path)
    ATTACKS["expression"].write(tmp_path / "model.pt2")
    assert read_codes(tmp_path)  # weights alone are read
    assert not Path(MARK).exists()


@pytest.mark.parametrize("link", [False, True])
def test_data_outside_of_the_folder_is_not_read(link: bool, tmp_path: Path) -> None:
    program = small()
    folder = folder_of(program, tmp_path / "out", "ort") / "ort"
    data = folder / "model.onnx.data"
    data.rename(tmp_path / "secret")
    if link:
        data.symlink_to(tmp_path / "secret")
    else:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../../secret"
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="no file beside it"):
        read_codes(tmp_path / "out")


def test_codes_that_are_missing_damaged_or_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"are missing.*compile anew with calib"):
        read_codes(tmp_path)
    (tmp_path / ONNX).write_bytes(b"no model")
    with pytest.raises(UsageError, match="cannot be read as an ONNX model"):
        read_codes(tmp_path)
    program = small()
    codes = read_codes(folder_of(program, tmp_path / "out", "onnx"))
    for name, shape in (("1.weight", (64, 64)), ("0.weight", (64, 32)), ("0.weight", (32, 64))):
        with pytest.raises(UsageError, match="another model or to other options"):
            weight_of_codes(codes, name, torch.empty(shape), IntGrid(4, 32))
    for granularity in (IntGrid(4, 64), IntGrid(4, 32, symmetric=True)):
        with pytest.raises(UsageError, match="another model or to other options"):
            weight_of_codes(codes, "0.weight", torch.empty(64, 64), granularity)

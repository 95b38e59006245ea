"""onnxruntime's own form: the same function as the QDQ form, in a file that can be mapped."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from awqc.errors import ExportError
from awqc.export.onnx import export_onnx
from awqc.export.ort import ExportedOrt, export_ort
from awqc.export.ort_data import INLINE_BYTES, PAGE
from awqc.kv_cache import past_name
from awqc.numerics.formats.int_grid import IntGrid
from awqc.program import Program
from awqc.targets.known import ORT_CPU, ORT_CUDA
from tests.export.quantizing import captured, quantized, relative_error, run_onnx
from tests.tiny import MODELS
from tests.tiny import captured as tiny

GROUPS = [16, 32, 48, 64, 128, -1]


def both(program: Program, folder: Path, level: int = 1) -> tuple[Path, ExportedOrt]:
    """The QDQ form, and the one made from it."""
    path = export_onnx(program, folder / "model.onnx").path
    return path, export_ort(path, folder / "ort.onnx", level)


def check(program: Program, folder: Path, *inputs: Tensor, limit: float = 1e-5) -> ExportedOrt:
    """The two forms and the program must agree at the exact level."""
    path, tuned = both(program, folder)
    feeds = {spec.name: x for spec, x in zip(program.inputs, inputs, strict=True)}
    found = run_onnx(tuned.path, feeds)
    assert relative_error(found, run_onnx(path, feeds)) < limit
    assert relative_error(found, program.run(feeds)) < limit
    return tuned


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [64, 72])  # 72: ragged for every group
def test_products_of_all_granularities(bits: Any, columns: int, tmp_path: Path) -> None:
    kinds = [IntGrid(bits, group, s) for group, s in product(GROUPS, (False, True))]
    layers = [nn.Linear(columns, columns, index % 2 == 0) for index, _ in enumerate(kinds)]
    model = nn.Sequential(*(nn.Sequential(layer, nn.Tanh()) for layer in layers))
    program = quantized(captured(model, torch.randn(3, columns)), *kinds)
    tuned = check(program, tmp_path, torch.randn(5, columns))
    assert (tuned.products, tuned.left) == (len(layers), {})


@pytest.mark.parametrize("shape", [(64,), (4, 64), (2, 3, 64), (2, 3, 2, 64)])
def test_inputs_of_any_rank_with_clamps_behind(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8, bias=False), nn.ReLU6())
    program = quantized(captured(model, torch.randn(*shape)), IntGrid(4, 16))
    assert check(program, tmp_path, torch.randn(*shape)).products == 2


@pytest.mark.parametrize("kind", list(MODELS))
def test_models_of_all_kinds(kind: str, tmp_path: Path) -> None:
    program = quantized(tiny(kind), IntGrid(4, 16), IntGrid(8, -1, True))
    tuned = check(program, tmp_path, *program.example.values())
    reasons = set(tuned.left.values())
    assert all("read by Conv" in r or "dimensions" in r or "groups of" in r for r in reasons)


class TiedTable(nn.Module):
    """A table that is looked up and, as a head, multiplied with."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = nn.functional.linear(torch.tanh(self.table(ids)), self.table.weight)
        return out


@pytest.mark.parametrize("width", [64, 72])
def test_a_table_is_looked_up_as_codes_and_shared_with_the_head(width: int, tmp_path: Path) -> None:
    program = quantized(
        captured(TiedTable(96, width), torch.randint(0, 96, (2, 5))), IntGrid(8, -1, True)
    )
    tuned = check(program, tmp_path, torch.randint(0, 96, (3, 5)))
    assert (tuned.products, tuned.tables, tuned.left) == (1, 1, {})
    nodes = [node.op_type for node in onnx.load(tuned.path).graph.node]
    assert nodes == ["GatherBlockQuantized", "Tanh", "MatMulNBits"]
    if width % 32 == 0:  # else the rows of the head are filled up, and the codes are others
        assert tuned.data.stat().st_size < 2 * 96 * width


def test_half_precision(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 72), nn.ReLU(), nn.Linear(72, 40, bias=False)).half()
    program = quantized(captured(model, torch.randn(2, 64).half()), IntGrid(4, 32))
    assert check(program, tmp_path, torch.randn(3, 64).half(), limit=5e-3).products == 2


def test_what_no_kernel_takes_stays_and_is_named(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(60, 16), torch.randn(2, 60)), IntGrid(4, 24))
    tuned = check(program, tmp_path, torch.randn(5, 60))
    assert tuned.products == 0
    assert tuned.left == {"weight": "groups of 24; MatMulNBits takes 16, 32, 64, 128 or 256"}


def test_levels_are_attributes_and_equal_the_session_option(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(128, 32), torch.randn(2, 128)), IntGrid(4, 32))
    feeds = {program.inputs[0].name: torch.randn(5, 128)}
    for level in (0, 1, 4):
        path, tuned = both(program, tmp_path, level)
        assert relative_error(run_onnx(tuned.path, feeds, 0), run_onnx(path, feeds, level)) == 0


def test_weights_lie_on_pages(tmp_path: Path) -> None:
    program = quantized(captured(nn.Linear(256, 128), torch.randn(2, 256)), IntGrid(4, 32))
    _, tuned = both(program, tmp_path)
    initializers = onnx.load(tuned.path, load_external_data=False).graph.initializer
    places = [{e.key: e.value for e in t.external_data} for t in initializers if t.external_data]
    assert len(places) == 2  # codes and scales; zero points and bias are small
    assert all(int(place["offset"]) % PAGE == 0 for place in places)
    assert all(int(place["length"]) > INLINE_BYTES for place in places)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    program = captured(nn.Linear(8, 8), torch.randn(2, 8))
    path = export_onnx(program, tmp_path / "model.onnx").path
    with pytest.raises(ExportError, match="could not be written"):
        export_ort(path, tmp_path / "missing" / "model.onnx")


class SideBySide(nn.Module):
    """Linear layers that read one value, some with a bias, and one of other bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 24), nn.Linear(64, 40, bias=False)
        self.third, self.other = nn.Linear(64, 8), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = torch.tanh(x)
        return torch.relu(self.first(x)), self.second(x), self.third(x), self.other(x)


def test_products_of_one_value_stand_side_by_side_where_one_token_is_read(tmp_path: Path) -> None:
    program = captured(SideBySide(), torch.randn(2, 3, 64))
    kinds = [IntGrid(4, 32)] * 3 + [IntGrid(8, 32)]
    path = export_onnx(quantized(program, *kinds), tmp_path / "model.onnx").path
    model = onnx.load(path)
    past = onnx.helper.make_tensor_value_info(past_name(0, "key"), onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(past)
    onnx.save(model, path)
    x = torch.randn(2, 3, 64)
    feeds = {program.inputs[0].name: x, past.name: torch.zeros(1)}
    # onnxruntime on the CPU adds the vector of the one that stands alone; its kernel for CUDA not
    for row, adds in ((ORT_CPU, 0), (replace(ORT_CPU, adds_vectors=False), 1)):
        tuned = export_ort(path, tmp_path / "ort.onnx", 1, runs_on=row)
        assert tuned.products == 2
        nodes = [node.op_type for node in onnx.load(tuned.path).graph.node]
        assert (nodes.count("Split"), nodes.count("Add")) == (1, adds)
        assert relative_error(run_onnx(tuned.path, feeds), program.run({"x": x})) < 1e-5


def test_of_many_tokens_each_product_stands_alone(tmp_path: Path) -> None:
    program = captured(SideBySide(), torch.randn(2, 3, 64))
    tuned = check(quantized(program, IntGrid(4, 32)), tmp_path, torch.randn(2, 3, 64))
    assert tuned.products == 4
    assert {node.op_type for node in onnx.load(tuned.path).graph.node} == {
        "Tanh", "MatMulNBits", "Relu",
    }  # fmt: skip


@pytest.mark.parametrize(("columns", "block"), [(512, 256), (576, 64), (72, 32)])
def test_a_scale_of_a_row_is_repeated_for_the_blocks_that_are_fast(
    columns: int, block: int, tmp_path: Path
) -> None:
    """For another target for those that onnxruntime would cut itself."""
    program = quantized(captured(nn.Linear(columns, 8), torch.randn(2, columns)), IntGrid(8, -1))
    tuned = check(program, tmp_path, torch.randn(3, columns))
    path = export_ort(tmp_path / "model.onnx", tmp_path / "cuda.onnx", runs_on=ORT_CUDA).path
    for file, wanted in ((tuned.path, block), (path, 32)):
        (node,) = (each for each in onnx.load(file).graph.node if each.op_type == "MatMulNBits")
        assert {each.name: each.i for each in node.attribute}["block_size"] == wanted

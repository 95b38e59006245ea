"""A recipe is read back as it was written, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from awqc.artifacts.recipe import SCALES_FILE, read_recipe, write_recipe
from awqc.errors import UsageError
from awqc.passes.fold_scales import FoldScales
from awqc.passes.load_scales import LoadScales
from awqc.passes.pipeline import DEFAULT, Pipeline
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.program import Program
from tests.tiny import captured, run


@pytest.fixture
def written(tmp_path: Path) -> tuple[Program, Path]:
    program = run(captured("mlp"), DEFAULT)
    write_recipe(program, DEFAULT, tmp_path)
    return program, tmp_path


def canonical(name: str = "mlp") -> Program:
    return run(captured(name), "canonicalize")


def test_what_is_written_is_read(written: tuple[Program, Path]) -> None:
    program, folder = written
    for path in (folder, folder / "recipe.json"):
        recipe = read_recipe(path)
        assert recipe.pipeline == DEFAULT
        assert recipe.quantization["bits"] == 4
        assert recipe.status == {site.name: site.status for site in program.findings.sites}
        for name, scale in program.findings.scales.items():
            assert torch.equal(recipe.scales[name].scale, scale.scale)
            assert recipe.scales[name].loss == scale.loss


def test_loading_gives_the_sites_their_scales(written: tuple[Program, Path]) -> None:
    program, folder = written
    again = canonical()
    Pipeline((LoadScales(str(folder)), FoldScales(), QuantizeWeights())).run(again)
    names = [[site.name for site in each.findings.sites] for each in (again, program)]
    assert names[0] == names[1]
    for name, quantized in program.findings.quantized.items():
        other = again.findings.quantized[name]
        assert torch.equal(quantized.codes, other.codes)
        assert torch.equal(quantized.tensors["scale"], other.tensors["scale"])


def edit(folder: Path, change: Any) -> None:
    path = folder / "recipe.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "recipe.json").unlink(), "cannot be read as a recipe"),
        (lambda f: (f / "recipe.json").write_text("{"), "cannot be read as a recipe"),
        (lambda f: (f / "recipe.json").write_text("[]"), "an object is needed"),
        (lambda f: edit(f, lambda c: c.update(schema=9)), "is no recipe of schema 1"),
        (lambda f: (f / SCALES_FILE).unlink(), "cannot be read as a recipe"),
        (lambda f: (f / SCALES_FILE).write_bytes(b"junk"), "cannot be read as a recipe"),
        (lambda f: save_file({}, f / SCALES_FILE), "has no scales for '0'"),
    ],
)
def test_unreadable_recipes(written: tuple[Program, Path], break_it: Any, message: str) -> None:
    break_it(written[1])
    with pytest.raises(UsageError, match=message):
        read_recipe(written[1])


def test_a_recipe_of_another_model_is_refused(written: tuple[Program, Path]) -> None:
    with pytest.raises(UsageError, match="belongs to another model"):
        LoadScales(str(written[1])).apply(canonical("gated"))


def test_another_status_is_refused(written: tuple[Program, Path]) -> None:
    edit(written[1], lambda c: c["sites"]["2"].update(status="refused"))
    with pytest.raises(UsageError, match="site '2' was refused then and is foldable now"):
        LoadScales(str(written[1])).apply(canonical())


def test_another_number_of_scales_is_refused(written: tuple[Program, Path]) -> None:
    program, folder = written
    scales = {name: scale.scale for name, scale in program.findings.scales.items()}
    save_file(scales | {"2": torch.ones(5)}, folder / SCALES_FILE)
    with pytest.raises(UsageError, match="has 5 scales, 32 are needed"):
        LoadScales(str(folder)).apply(canonical())

"""A head gets the width that pays: 4 bits where little is lost and much is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from awqc.compiler import compile_graph
from awqc.errors import UsageError, worded
from awqc.huggingface.capture import load_folder
from awqc.machine.ranks import Ranks
from awqc.options import parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.passes.pipeline import parse_pipeline
from awqc.runtimes.product_speed import seconds_of_product
from awqc.stages import head
from awqc.stages.head import WORTH, choose_head
from awqc.targets.known import ORT_CPU
from awqc.verify.reference import take_reference
from tests.tiny_language_models import save_decoder

WIDE = {"hidden_size": 256, "intermediate_size": 64, "vocab_size": 8192, "num_hidden_layers": 1}
TABLE = "model.embed_tokens.weight"
ROWS = onnx.helper.make_attribute("N", WIDE["vocab_size"])
PIPELINE = "canonicalize,quantize-weights{bits=4,group-size=64}"


@pytest.fixture(autouse=True)
def _by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product takes as long as its codes are large: what a clock says hangs on other work."""

    def seconds(rows: int, columns: int, bits: int, block: int, level: int) -> float:
        return rows * columns * bits * 1e-9

    monkeypatch.setattr(head, "seconds_of_product", seconds)


def program_of(folder: Path, sharp: float, **changes: Any) -> Any:
    """A decoder whose head takes most of a step; its logits are as large as ``sharp`` says."""
    model = save_decoder("llama", folder, **{**WIDE, "tie_word_embeddings": False, **changes})
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharp)
    model.save_pretrained(folder)
    return load_folder(folder)


def reference_of(program: Any) -> Any:
    ids = torch.randint(0, WIDE["vocab_size"], (2, 9))
    states = {name: torch.zeros(2, 2, 0, 64) for name, _ in program.states}
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones(2, 9, dtype=torch.int64),
        "position_ids": torch.arange(9).expand(2, 9),
        **states,
    }
    return take_reference(program, [{spec.name: batch[spec.name] for spec in program.inputs}])


@pytest.mark.parametrize(("sharp", "bits"), [(1.0, 4), (400.0, 8)])
def test_it_is_weighed_by_what_it_loses_and_saves(sharp: float, bits: int, tmp_path: Path) -> None:
    program = program_of(tmp_path, sharp)
    before = program.weight("lm_head.weight").clone()
    chosen = choose_head(program, parse_pipeline(PIPELINE), reference_of(program), ORT_CPU)
    assert chosen.width == bits, chosen
    assert torch.equal(program.weight("lm_head.weight"), before)
    words = chosen.reason.split()
    worse, saved = float(words[words.index("add") + 1]), int(words[words.index("save") + 1][:-1])
    assert (worse <= WORTH * saved / 100 + 1e-3) == (bits == 4)
    assert 0 < saved < 90


def test_what_has_no_head_of_its_own_keeps_8_bits(tmp_path: Path) -> None:
    tied = program_of(tmp_path, 1.0, tie_word_embeddings=True)
    reference = reference_of(tied)
    chosen = choose_head(tied, parse_pipeline(PIPELINE), reference, ORT_CPU)
    assert (chosen.width, chosen.reason) == (8, "there is no head with a width of its own")
    chosen = choose_head(tied, parse_pipeline("canonicalize"), reference, ORT_CPU)
    assert (chosen.width, chosen.reason) == (8, "nothing is quantized")


def test_a_head_that_is_a_table_is_weighed_with_codes_of_its_own(tmp_path: Path) -> None:
    tied = program_of(tmp_path, 1.0, tie_word_embeddings=True)
    before, names = tied.weight(TABLE).clone(), set(tied.parameters())
    pipeline = parse_pipeline(PIPELINE)
    chosen = choose_head(tied, pipeline, reference_of(tied), ORT_CPU, untie=True)
    assert (chosen.width, chosen.untied) == (4, True)
    assert chosen.reason.endswith("beside the table that it is, it takes 1.2 MB more")
    assert set(tied.parameters()) == names
    assert torch.equal(tied.weight(TABLE), before)
    taken = "canonicalize,untie-head,quantize-weights{group-size=64,head-bits=4}"
    assert str(chosen.taken_by(pipeline)) == taken


@pytest.mark.parametrize("width", ["auto", 4])
def test_a_compile_gives_a_tied_head_the_width_that_was_asked_for(
    width: int | str, tmp_path: Path
) -> None:
    program = program_of(tmp_path / "model", 1.0, tie_word_embeddings=True)
    compile_graph(
        program, head_bits=width, effort="fast", formats=("onnx", "ort"), max_loss=float("inf"),
        output_dir=tmp_path / "out",
    )  # fmt: skip
    graphs = [
        onnx.load(tmp_path / "out" / place / "model.onnx", load_external_data=False).graph
        for place in ("", "ort")
    ]
    found = {each.name: each.data_type for each in graphs[0].initializer}
    assert found[TABLE] == onnx.TensorProto.INT8
    assert found["lm_head.weight"] == onnx.TensorProto.UINT4
    products = [node.attribute for node in graphs[1].node if node.op_type == "MatMulNBits"]
    (bits,) = (each.i for told in products if ROWS in told for each in told if each.name == "bits")
    assert bits == 4
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    again = compile_graph(
        load_folder(tmp_path / "model"), recipe=tmp_path / "out" / "recipe.json",
        effort="fast", formats=("onnx",), max_loss=float("inf"),
    )  # fmt: skip
    assert "untie-head" in recipe["pipeline"]
    same = (folder / "model.onnx" for folder in (tmp_path / "out", again.folder))
    assert len({path.read_bytes() for path in same}) == 1


def test_formats_with_names_of_a_checkpoint_keep_one_table() -> None:
    for formats, untied in ((("onnx",), True), (("onnx", "awq"), False), (("gguf",), False)):
        options = parse_options(head_bits=4, formats=formats)
        assert ("untie-head" in str(build_pipeline(options))) == untied
    assert "untie-head" not in str(build_pipeline(parse_options(head_bits=8)))


def test_a_compile_writes_the_width_and_a_recipe_repeats_it(tmp_path: Path) -> None:
    program = program_of(tmp_path / "model", 1.0)
    notes: list[str] = []
    options: dict[str, Any] = {"effort": "fast", "formats": ("onnx",), "max_loss": float("inf")}
    compiled = compile_graph(
        program, head_bits="auto", notify=lambda note: notes.append(str(note)),
        output_dir=tmp_path / "out", **options,
    )  # fmt: skip
    (told,) = (note for note in notes if note.startswith("the head has 4 bits: 4 in place of 8"))
    assert "% of the time that a token's products take" in told
    assert "head-bits=4" in compiled.report["recipe"]["pipeline"]
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert recipe["quantization"]["head_bits"] == 4
    again = compile_graph(
        load_folder(tmp_path / "model"), recipe=tmp_path / "out" / "recipe.json",
        head_bits="auto", notify=lambda note: notes.append(str(note)), **options,
    )  # fmt: skip
    assert sum(note.startswith("the head") for note in notes) == 1
    for folder in (tmp_path / "out", again.folder):
        tensors = onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer
        (head,) = (each for each in tensors if each.name == "lm_head.weight")
        assert head.data_type == onnx.TensorProto.UINT4


def test_several_processes_do_not_measure(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compile_graph(nn.Linear(4, 4), head_bits="auto", ranks=Ranks(0, 2))
    assert "head_bits='auto' measures on one machine" in worded(caught.value.text)


def test_products_are_timed() -> None:
    """Of one size the time of one with 64 times the rows is more, whatever else runs here."""
    small, large = (seconds_of_product(rows, 256, 4, 32, 4) for rows in (512, 512 * 64))
    assert 0 < small < large

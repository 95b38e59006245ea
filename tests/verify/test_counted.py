"""A decoder that counts places is held to what it promises, and is given positions where data say
so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import awqc
from awqc.errors import UsageError
from awqc.kv_cache import PLACES
from awqc.program import Batch
from awqc.runtimes.session_file import metadata_of
from awqc.verify.counted import BEHIND_PADDING
from tests.tiny_language_models import VOCABULARY, save_decoder, save_tokenizer

TOKENS = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    save_decoder("llama", folder, hidden_size=64)  # heads of 16, which the kernel turns
    save_tokenizer(folder)
    return folder


def compiled(source: Path, out: Path, **options: Any) -> Path:
    awqc.compile(
        source, effort="fast", formats=("onnx", "ort"), bits=8, group_size=16, provider="cpu",
        max_loss=float("inf"), output_dir=out, **options,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(source, tmp_path_factory.mktemp("places") / "out")


def batch(mask: list[list[int]], positions: torch.Tensor) -> Batch:
    flags = torch.tensor(mask)
    ids = torch.randint(4, VOCABULARY, flags.shape, generator=torch.Generator().manual_seed(0))
    past = {
        f"past_key_values.{layer}.{part}": torch.zeros(len(mask), 2, 0, 16)
        for layer in range(2)
        for part in ("key", "value")
    }
    return {"input_ids": ids, "attention_mask": flags, "position_ids": positions, **past}


def test_the_report_says_it_and_padding_was_tried(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["verify"]["ort"]["positions"] == "places"
    comparisons = report["verify"]["comparisons"]
    tried = {
        found["form"]: [size["where"] for size in found["sizes"] if BEHIND_PADDING in size["where"]]
        for found in comparisons
    }
    assert len(tried["ort"]) == 3
    assert tried["onnx"] == []


def test_runners_are_told_the_inputs_that_are_there(folder: Path) -> None:
    for form, there in (("", True), ("ort", False)):
        graph = onnx.load(folder / form / "model.onnx", load_external_data=False).graph
        described = json.loads((folder / form / "genai_config.json").read_text())
        for names in (
            {value.name for value in graph.input},
            described["model"]["decoder"]["inputs"],
        ):
            assert ("position_ids" in names) is there


def test_left_padding_works_and_a_hole_is_refused(folder: Path) -> None:
    mask = [[0, 0, 1, 1, 1, 1], [1] * TOKENS]
    positions = torch.tensor([[0, 0, 0, 1, 2, 3], [*range(TOKENS)]])
    given = batch(mask, positions)
    exact = [awqc.load(folder / form / "model.onnx", "cpu", 1) for form in ("", "ort")]
    wanted, found = (model.run(given)[0] for model in exact)
    seen = given["attention_mask"].bool()
    assert torch.allclose(found[seen], wanted[seen], atol=1e-4)
    hole = batch([[1, 1, 0, 1, 1, 1]], torch.tensor([[0, 1, 1, 2, 3, 4]]))
    with pytest.raises(UsageError, match=r"row 0 is 2 for the token at place 3 .*'given'"):
        exact[1].run(hole)


def test_positions_are_given_where_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    out = compiled(source, tmp_path / "out", positions="given")
    assert PLACES not in metadata_of(out / "ort" / "model.onnx")


def test_positions_are_given_where_data_have_others(source: Path, tmp_path: Path) -> None:
    """Two texts in a row, each counted from its own beginning."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    out = compiled(source, tmp_path / "out", calib=[batch([[1] * TOKENS], positions)] * 4)
    assert PLACES not in metadata_of(out / "ort" / "model.onnx")

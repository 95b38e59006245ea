"""What stands in a compiled folder's tokenizer files, for every release of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.genai import genai_config, runs_in_genai
from awqc.huggingface.runner_files import write_processing, write_runner_files
from awqc.program import Program
from tests.tiny_language_models import Opened, save_encoder, save_tokenizer


def settings(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return content


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("runner") / "model"
    save_encoder("bert", folder)
    save_tokenizer(folder)
    return load_folder(folder)


@pytest.fixture
def source(encoder: Program, tmp_path: Path) -> Path:
    """A copy of its folder."""
    return shutil.copytree(HFFolder.of(encoder).path, tmp_path / "model")


def set_longest(folder: Path, value: int | None) -> None:
    content = settings(folder) | {"model_max_length": value}
    if value is None:
        del content["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("given", "wanted"), [(None, 64), (10**30, 64), (16, 16), (100, 64)])
def test_texts_are_as_long_as_the_model_takes(
    given: int | None, wanted: int, encoder: Program, source: Path, tmp_path: Path
) -> None:
    set_longest(source, given)
    assert HFFolder.at(source).config().max_position_embeddings == 64
    (tmp_path / "out").mkdir()
    write_runner_files(encoder, HFFolder.at(source), tmp_path / "out")
    found = settings(tmp_path / "out")
    assert found["model_max_length"] == wanted
    assert set(found["model_input_names"]) == {spec.name for spec in encoder.inputs}


def test_the_general_class_has_a_name_that_all_releases_know(source: Path, tmp_path: Path) -> None:
    content = settings(source) | {"tokenizer_class": "TokenizersBackend"}
    (source / "tokenizer_config.json").write_text(json.dumps(content))
    (tmp_path / "out").mkdir()
    write_processing(HFFolder(source), tmp_path / "out")
    assert settings(tmp_path / "out")["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize(
    ("kind", "parts", "types"),
    [
        ("llama", {"key", "value"}, None),
        ("lfm2", {"key", "value", "conv"}, ["conv", "full_attention"]),
        ("qwen3_5_text", {"key", "value", "conv", "recurrent"}, None),
    ],
)
def test_another_runner_is_told_what_is_carried(
    kind: str, parts: set[str], types: list[str] | None, decoder_of: Callable[[str], Opened]
) -> None:
    """The names that onnxruntime-genai 0.18 has for these; it finds recurrent layers by them."""
    program = decoder_of(kind).program
    assert runs_in_genai(program)
    decoder = genai_config(program, HFFolder.of(program).config())["model"]["decoder"]
    assert decoder["num_hidden_layers"] == 2
    assert decoder.get("layer_types") == types
    states = {name for name, _ in program.states}
    for part in parts:
        first = decoder["inputs"][f"past_{part}_names"] % (1 if part in ("key", "value") else 0)
        assert first in states
        assert decoder["outputs"][f"present_{part}_names"].startswith("present")
    assert {name.split("_")[1] for name in decoder["inputs"] if name.startswith("past_")} == parts


@pytest.mark.parametrize("kind", ["mamba", "deepseek_v32"])
def test_what_another_runner_has_no_words_for_is_left_out(
    kind: str, decoder_of: Callable[[str], Opened], tmp_path: Path
) -> None:
    program = decoder_of(kind).program
    shutil.copytree(decoder_of(kind).folder, tmp_path, dirs_exist_ok=True)
    save_tokenizer(tmp_path)
    assert not runs_in_genai(program)
    (tmp_path / "out").mkdir()
    write_runner_files(program, HFFolder.at(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / "genai_config.json").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()

"""A folder of an encoder and a decoder, arranged as onnxruntime-genai looks for files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import awqc
from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.export.layouts import GENAI_LIBRARY, FolderLayout
from benchmarks.folder_models import MODELS
from tests.tiny_language_models import save_decoder, save_tokenizer

FREE = {"batch": 2, "past": 0, "source": 0}
"""Sizes of free axes at a first call of two rows."""
FIRST, LATER = [[3, 4, 5]] * 2, [[6], [7]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a compile writes it, in both forms."""
    base = tmp_path_factory.mktemp("speech")
    MODELS["automatic-speech-recognition/whisper"].save(base / "model")
    awqc.compile(
        base / "model", output_dir=base / "out", effort="fast", bits=8, group_size=16,
        num_samples=2, formats=("onnx", "ort"),
    )  # fmt: skip
    return base / "out"


@pytest.fixture(scope="module", params=["onnx", "ort"])
def plain(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """In one of them."""
    found = tmp_path_factory.mktemp(request.param) / "plain"
    shutil.copytree(folder, found)
    if request.param == "onnx":
        shutil.rmtree(found / "ort")
    return found


@pytest.fixture(scope="module")
def arranged(plain: Path) -> Path:
    found = plain.with_name("arranged")
    shutil.copytree(plain, found)
    FolderLayout(GENAI_LIBRARY).apply(found)
    return found


def told(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "genai_config.json").read_text())["model"]
    return content


class Graph:
    """A model; what is not given is empty."""

    def __init__(self, path: Path) -> None:
        self.session = ort.InferenceSession(path)
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, **given: Any) -> dict[str, np.ndarray]:
        inputs = {value.name: value.shape for value in self.session.get_inputs()}
        feeds = {name: given[name] for name in inputs if name in given}
        for name in set(inputs) - set(feeds):
            sizes = [FREE.get(size, size) for size in inputs[name]]
            feeds[name] = np.zeros(sizes, np.float32)
        return dict(zip(self.outputs, self.session.run(None, feeds), strict=True))


def as_past(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    states = {name: value for name, value in made.items() if name.startswith("present")}
    return {name.replace("present", "past_key_values"): value for name, value in states.items()}


def test_it_holds_what_the_library_reads(arranged: Path) -> None:
    names = {path.name for path in arranged.iterdir()}
    assert {"encoder.onnx", "decoder.onnx", "genai_config.json", "tokenizer.json"} <= names
    assert not {"ort", "encoder_model.onnx", "decoder_model_merged.onnx", "session.json"} & names
    steps = json.loads((arranged / "audio_processor_config.json").read_text())
    spectrum = steps["feature_extraction"]["sequence"][-1]["operation"]["attrs"]
    audio = Graph(arranged / "encoder.onnx").session.get_inputs()[0]
    assert spectrum["n_mel"] == audio.shape[1]


def test_names_in_its_configuration_are_those_of_the_graphs(arranged: Path) -> None:
    for part in ("encoder", "decoder"):
        said = told(arranged)[part]
        session = Graph(arranged / said["filename"]).session
        values = {each.name: each for each in (*session.get_inputs(), *session.get_outputs())}
        named = {**said["inputs"], **said["outputs"]}.values()
        layers = range(said["num_hidden_layers"])
        each_layer = {name % layer for name in named if "%d" in name for layer in layers}
        assert each_layer | {name for name in named if "%d" not in name} == set(values)
        keys = [value.shape for name, value in values.items() if name.endswith(".key")]
        assert {(shape[1], shape[3]) for shape in keys} == {
            (said["num_key_value_heads"], said["head_size"])
        }


def test_both_graphs_compute_what_the_plain_ones_do(plain: Path, arranged: Path) -> None:
    """As that library runs them: the encoder once, then the decoder with what came of it."""
    place = plain / "ort" if (plain / "ort").is_dir() else plain
    encoder, merged = (
        Graph(place / "encoder_model.onnx"),
        Graph(place / "decoder_model_merged.onnx"),
    )
    first, later = Graph(arranged / "encoder.onnx"), Graph(arranged / "decoder.onnx")
    audio = first.session.get_inputs()[0]
    sizes = (2, *audio.shape[1:])
    heard = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    wanted, found = encoder(**{audio.name: heard}), first(**{audio.name: heard})
    states = wanted["last_hidden_state"]
    assert np.array_equal(found["last_hidden_state"], states)
    was, now = {"encoder_hidden_states": states}, as_past(found)
    for tokens, behind in ((FIRST, False), (LATER, True), (LATER, True)):
        ids = np.array(tokens)
        wanted = merged(**was, input_ids=ids, use_cache_branch=np.array([behind]))
        found = later(**now, input_ids=ids)
        assert np.array_equal(found["logits"], wanted["logits"])
        was |= as_past(wanted)
        now |= as_past(found)


def test_a_decoder_alone_needs_no_layout(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="opens in onnxruntime-genai as it is: its ort/"):
        awqc.compile(tmp_path, layout=GENAI_LIBRARY, effort="fast")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("encoder", torch.zeros(2, 5, dtype=torch.long)),  # tokens
        ("encoder", torch.zeros(2, 3, 8, 8)),  # an image in front of a text
        ("vision", torch.zeros(2, 4, 8)),  # rows that go into a prompt
    ],
)
def test_other_parts_are_refused_before_they_are_compiled(name: str, given: torch.Tensor) -> None:
    part = capture_module(torch.nn.Flatten(), (given,))
    with pytest.raises(UsageError, match=f"{name} reads input=.* Leave it out"):
        FolderLayout(GENAI_LIBRARY).check_parts({name: part, "decoder": part})

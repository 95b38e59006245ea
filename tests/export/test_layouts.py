"""A folder arranged as transformers.js looks for files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import awqc
from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.export.layouts import FolderLayout
from awqc.export.onnx import export_onnx
from awqc.options import parse_options
from awqc.options.chosen_passes import build_pipeline
from awqc.passes.convert_dtype import ConvertDtype

JS = "transformers.js"


def write(folder: Path, bits: int = 4, half: bool = False) -> Path:
    """A compiled model with its weights in a file of their own."""
    torch.manual_seed(0)
    program = capture_module(nn.Linear(64, 32), (torch.zeros(2, 64),))
    options = parse_options(bits=bits, group_size=32, effort="fast")
    build_pipeline(options).run(program, [{"input": torch.randn(8, 64)}])
    if half:
        ConvertDtype("float16").apply(program)
        program.tidy()
    export_onnx(program, folder / "model.onnx", external_data=True)
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path)
    kind = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    feeds = {session.get_inputs()[0].name: np.ones((3, 64), kind)}
    made: np.ndarray = session.run(None, feeds)[0]
    return made


@pytest.mark.parametrize(
    ("bits", "half", "file", "dtype"),
    [
        (4, False, "model_q4.onnx", "q4"),
        (8, False, "model_quantized.onnx", "q8"),
        (2, False, "model.onnx", "fp32"),
        (4, True, "model_q4f16.onnx", "q4f16"),
        (8, True, "model_fp16.onnx", "fp16"),
    ],
)
def test_models_are_under_the_names_that_it_looks_for(
    tmp_path: Path, bits: int, half: bool, file: str, dtype: str
) -> None:
    folder = write(tmp_path, bits, half)
    before = run(folder / "model.onnx")
    FolderLayout(JS).apply(folder)
    assert {path.name for path in (folder / "onnx").iterdir()} == {file, f"{file}_data"}
    assert not (folder / "model.onnx").exists()
    assert np.array_equal(run(folder / "onnx" / file), before)
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "model_type": "none",
        "transformers.js_config": {"dtype": dtype, "use_external_data_format": {file: 1}},
    }
    graph = onnx.load(folder / "onnx" / file, load_external_data=False).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch_size"


def test_of_two_forms_that_of_onnxruntime_is_taken(folder: Path) -> None:
    (folder / "ort").mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (folder / "ort" / name).write_bytes((folder / name).read_bytes())
    FolderLayout(JS).apply(folder)
    assert sorted(path.name for path in folder.rglob("*")) == [
        "config.json", "model_q4.onnx", "model_q4.onnx_data", "onnx",
    ]  # fmt: skip


def test_the_chat_template_is_where_it_is_looked_for(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer_config.json").write_text("{}")
    FolderLayout(JS).apply(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ messages }}"


def test_what_makes_inputs_has_a_file_of_its_own(folder: Path) -> None:
    inner = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80}
    own = {"feature_extractor": inner, "processor_class": "WhisperProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(own))
    FolderLayout(JS).apply(folder)
    written = json.loads((folder / "preprocessor_config.json").read_text())
    assert written == {**inner, "processor_class": "WhisperProcessor"}


def test_a_model_without_a_configuration_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match=r"layout='transformers.js' is for Hugging Face models"):
        awqc.compile(nn.Linear(4, 4), (torch.zeros(2, 4),), layout=JS)


def test_a_folder_without_onnx_is_refused_before_any_work(folder: Path) -> None:
    with pytest.raises(UsageError, match="write onnx or ort"):
        FolderLayout(JS).check(folder, ("pt2",))

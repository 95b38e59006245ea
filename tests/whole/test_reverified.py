"""``awqc verify`` on a folder of several graphs: its files, its parts, and the whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import awqc
from awqc.artifacts.manifest import MANIFEST
from awqc.cli import run
from benchmarks.folder_models import MODELS
from tests.tiny_pipelines import save_unconditional
from tests.whole.pipes import Pipe, draw

CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 6,
}  # fmt: skip
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("verified")
    MODELS["text2text-generation/bart"].save(base / "bart")
    formats = ("onnx", "ort", "pt2")
    awqc.compile(base / "bart", output_dir=base / "out", formats=formats, **CHEAP)
    return base


@pytest.fixture
def copied(bart: Path, tmp_path: Path) -> Path:
    """A copy of the compiled folder, to be damaged."""
    shutil.copytree(bart / "out", tmp_path / "out")
    return tmp_path / "out"


def verify(folder: Path, *more: str) -> int:
    return run(["verify", str(folder), "--provider", "cpu", *more])


def moved(file: Path, part: str = "") -> None:
    """Move some floats of the model, among those whose names begin with ``part``."""
    model = onnx.load(file)
    graphs = [model.graph]
    graphs += [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    for tensor in (each for graph in graphs for each in graph.initializer):
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name.startswith(part):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, file)


def test_parts_are_verified_by_their_files_alone(bart: Path, capsys: Capture) -> None:
    assert verify(bart / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["parts"]) == ["encoder", "cross", "decoder"]
    for part in found["parts"].values():
        assert [each["form"] for each in part["comparisons"]] == ["onnx", "ort"]
        assert all(each["exact"]["rel"] < 1e-4 for each in part["comparisons"])
        assert part["original"] is None
    assert found["notes"] == []
    assert "generated" not in found


def test_parts_and_whole_are_compared_with_the_original(bart: Path, capsys: Capture) -> None:
    against = ["--against", str(bart / "bart"), "--num-samples", "3"]
    assert verify(bart / "out", *against) == 0
    told = capsys.readouterr().out
    assert told.count("against the original") == 3
    assert "of 3 samples" in told
    (bart / "lines.txt").write_text("t5 t9 t44\nt12 t3\nt8 t8 t9 t4\n")
    calib = ["--calib", str(bart / "lines.txt")]
    assert verify(bart / "out", *against, *calib, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verify"]["decoder.logits"]["rel"] < 0.05
    assert found["parts"]["decoder"]["original"]["cosine"] > 0.99
    assert found["generated"]["samples"] == 3
    assert verify(bart / "out", *against, "--max-loss", "1e-6") == 1
    assert "the loss against the original" in capsys.readouterr().err


def test_files_are_what_was_written(copied: Path, capsys: Capture) -> None:
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    (copied / "more.txt").write_text("mine")
    assert verify(copied) == 0
    assert "config.json was changed since the compile" in capsys.readouterr().out
    moved(copied / "encoder_model.onnx")
    assert verify(copied) == 1
    assert "encoder_model.onnx is not what was written" in capsys.readouterr().err
    (copied / "generation_config.json").unlink()
    assert verify(copied) == 1
    assert "generation_config.json is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "part"),
    [("encoder_model.onnx", ""), ("decoder_model_merged.onnx", "cross.")],
    ids=["encoder", "cross"],
)
def test_a_part_that_computes_something_else_is_found(
    copied: Path, capsys: Capture, file: str, part: str
) -> None:
    (copied / MANIFEST).unlink()
    moved(copied / file, part)
    assert verify(copied) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"awqc: error: {part.rstrip('.') or 'encoder'}: the onnx form")
    assert "differs from the quantized model" in told


def test_what_cannot_be_verified_is_refused(bart: Path, copied: Path, capsys: Capture) -> None:
    lines = bart / "some.txt"
    lines.write_text("t5 t9\nt4 t4\n")
    refused: dict[str, list[str]] = {
        "give --against beside --calib": ["--calib", str(lines)],
        "is no folder of a model of several graphs": ["--against", str(bart)],
        "is for a model that a factory makes": ["--weights", str(lines)],
        "is a limit for the loss": ["--max-loss", "1"],
    }
    for says, more in refused.items():
        assert verify(bart / "out", *more) == 2, says
        assert says in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(copied / "parts" / "cross")
    (copied / MANIFEST).unlink()
    assert verify(copied) == 2
    assert "has no model.pt2" in capsys.readouterr().err
    for place in (copied, copied / "ort"):
        (place / "decoder_model_merged.onnx").unlink()
    assert verify(copied) == 2
    assert "has no decoder_model_merged.onnx" in capsys.readouterr().err
    (copied / "report.json").write_text('{"wiring": []}')
    assert verify(copied) == 2
    assert "tells of no parts" in capsys.readouterr().err


def test_another_models_original_is_refused(bart: Path, capsys: Capture) -> None:
    save_unconditional(bart / "pixels")
    assert verify(bart / "out", "--against", str(bart / "pixels")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has the parts unet of sample, timestep; the compiled model has encoder of" in told


def test_a_pipeline_is_run_with_its_compiled_parts(tmp_path: Path, capsys: Capture) -> None:
    save_unconditional(tmp_path / "made")
    formats = ("onnx", "pt2")
    awqc.compile(tmp_path / "made", output_dir=tmp_path / "out", formats=formats, **CHEAP)
    against = ["--against", str(tmp_path / "made"), "--num-samples", "5"]
    assert verify(tmp_path / "out", *against) == 0
    assert "run with the compiled parts, against the original: 5 images" in capsys.readouterr().out
    assert verify(tmp_path / "out", *against, "--max-loss", "1e-9") == 1
    assert "the loss against the original" in capsys.readouterr().err


def test_what_was_compiled_from_python_is_verified(tmp_path: Path, capsys: Capture) -> None:
    options = {**CHEAP, "formats": ("onnx", "pt2")}
    del options["num_samples"]
    awqc.compile(Pipe(), run=draw, output_dir=tmp_path / "out", **options)
    assert verify(tmp_path / "out", "--json") == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert list(parts) == ["texts", "denoiser", "coder_decode"]
    assert verify(tmp_path / "out", "--against", str(tmp_path)) == 2
    assert "what was compiled from Python is verified without --against" in " ".join(
        capsys.readouterr().err.split()
    )
    moved(tmp_path / "out" / "denoiser" / "model.onnx")
    (tmp_path / "out" / MANIFEST).unlink()
    assert verify(tmp_path / "out") == 1
    assert "denoiser: the onnx form" in capsys.readouterr().err


def test_rows_that_are_read_alone_keep_what_is_for_all() -> None:
    from awqc.runtimes.row_by_row import parts_of

    feeds = {
        "tokens": torch.ones(3, 2), "past_key_values.0.key": torch.ones(3, 1, 4, 2),
        "use_cache_branch": torch.tensor([True]),
    }  # fmt: skip
    parts = parts_of(feeds)
    assert [part["tokens"].shape for part in parts] == [(1, 2)] * 3
    assert all(part["use_cache_branch"].shape == (1,) for part in parts)

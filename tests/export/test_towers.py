"""Towers of dual encoders: models of their own, with the weights of the whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import awqc
from awqc.artifacts.names import IMAGE_TOWER, MODEL, TEXT_TOWER, TUNED
from awqc.cli import run
from awqc.errors import VerificationError
from awqc.export.towers import towers_of, write_towers
from awqc.huggingface.capture import load_folder
from awqc.program import Program
from awqc.runtimes.loading import load
from benchmarks.folder_models import MODELS
from tests.media import write_images

CHEAP: dict[str, Any] = {
    "bits": 8, "group_size": 16, "effort": "fast", "provider": "cpu", "num_samples": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    base = tmp_path_factory.mktemp("clip")
    model = MODELS["zero-shot-image-classification/clip"].save(base / "clip")
    awqc.compile(base / "clip", output_dir=base / "out", formats=("onnx", "ort", "pt2"), **CHEAP)
    return base / "out", model


@pytest.fixture(scope="module")
def program(clip: tuple[Path, Any]) -> Program:
    return load_folder(clip[0].with_name("clip"))


def test_outputs_that_read_one_kind_are_towers(program: Program) -> None:
    text, image = sorted(towers_of(program), key=lambda tower: tower.file)
    assert text.file == TEXT_TOWER
    assert "text_embeds" in text.outputs
    assert image.inputs == ("pixel_values",)
    assert "image_embeds" in image.outputs
    assert not {name for name in text.outputs if name.startswith("logits")}


def test_a_model_of_one_kind_has_no_towers(program: Program) -> None:
    one = program.clone()
    one.task = type(program.task)(reads=("text",))
    assert towers_of(one) == ()


@pytest.mark.parametrize("place", ["", TUNED])
def test_towers_give_what_the_whole_gives(clip: tuple[Path, Any], place: str) -> None:
    folder = clip[0] / place
    pixels = torch.randn(3, 3, *_sides(folder / MODEL))
    ids = torch.randint(5, 20, (5, 4))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    whole = load(folder / MODEL, "cpu")
    wanted = dict(zip(whole.outputs, whole.run(_taken(whole, inputs)), strict=True))
    for file in (TEXT_TOWER, IMAGE_TOWER):
        tower = load(folder / file, "cpu")
        found = dict(zip(tower.outputs, tower.run(_taken(tower, inputs)), strict=True))
        assert 0 < len(tower.inputs) < len(whole.inputs)
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=1e-4)


def _sides(path: Path) -> list[int]:
    inputs = {value.name: value for value in onnx.load(path).graph.input}
    return [dim.dim_value or 32 for dim in inputs["pixel_values"].type.tensor_type.shape.dim[2:]]


def _taken(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {spec.name: inputs[spec.name] for spec in model.inputs}


def test_weights_are_there_once(clip: tuple[Path, Any]) -> None:
    for place in (clip[0], clip[0] / TUNED):
        whole = onnx.load(place / MODEL, load_external_data=False)
        small = sum(len(t.raw_data) for t in whole.graph.initializer)
        for file in (TEXT_TOWER, IMAGE_TOWER):
            model = onnx.load(place / file, load_external_data=False)
            outside = [t for t in model.graph.initializer if t.external_data]
            locations = {e.value for t in outside for e in t.external_data if e.key == "location"}
            assert locations == {f"{MODEL}.data"}
            assert sum(len(t.raw_data) for t in model.graph.initializer) <= small
        assert not (place / f"{TEXT_TOWER}.data").exists()


def test_transformers_js_finds_towers_that_hold_their_weights(
    clip: tuple[Path, Any], tmp_path: Path
) -> None:
    source = clip[0].with_name("clip")
    given = ["--bits", "8", "--group-size", "16", "--effort", "fast", "--provider", "cpu"]
    target = tmp_path / "web"
    more = ["--formats", "onnx", "--layout", "transformers.js", "--num-samples", "6"]
    assert run(["compile", str(source), "-o", str(target), *given, *more]) == 0
    ids = torch.randint(5, 20, (2, 4)).numpy()
    import onnxruntime as ort

    session = ort.InferenceSession(str(target / "onnx" / "text_model_quantized.onnx"))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (rows,) = session.run(["text_embeds"], {v.name: feeds[v.name] for v in session.get_inputs()})
    assert rows.shape[0] == 2


def test_a_damaged_tower_is_not_published(
    clip: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write = write_towers

    def damaged(towers: Any, folder: Path) -> None:
        write(towers, folder)
        for tower in towers:
            model = onnx.load(folder / tower.file)
            for tensor in model.graph.initializer:
                if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 1:
                    values = onnx.numpy_helper.to_array(tensor) + np.float32(0.1)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            onnx.save(model, folder / tower.file)

    monkeypatch.setattr("awqc.compiler.write_towers", damaged)
    with pytest.raises(VerificationError, match=r"_model\.onnx, opened by itself"):
        awqc.compile(
            clip[0].with_name("clip"), output_dir=tmp_path / "out", formats=("onnx",), **CHEAP
        )


def test_towers_in_half_precision_are_published(clip: tuple[Path, Any], tmp_path: Path) -> None:
    awqc.compile(
        clip[0].with_name("clip"), output_dir=tmp_path / "out", formats=("onnx", "ort"),
        dtype="float16", **CHEAP,
    )  # fmt: skip
    tower = load(tmp_path / "out" / IMAGE_TOWER, "cpu")
    assert tower.inputs[0].dtype == torch.float16


def test_the_folder_says_which_text_fits_an_image(
    clip: tuple[Path, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoProcessor

    from awqc.running.runner import Runner

    folder, model = clip
    photos = [str(path) for path in write_images(tmp_path, 2)]
    found = list(Runner(folder).answer([*photos, "t1 t2", "t3 t4"]))
    assert [name for name, _ in found] == photos
    made = AutoProcessor.from_pretrained(folder)(
        text=["t1 t2", "t3 t4"], images=[Image.open(path) for path in photos], return_tensors="pt"
    )
    with torch.no_grad():
        wanted = model(**made).logits_per_image.softmax(-1)
    for (_, answer), row in zip(found, wanted, strict=True):
        scores = {one["label"]: one["score"] for one in answer.content}
        assert scores["t1 t2"] == pytest.approx(float(row[0]), abs=0.05)
    assert run(["run", str(folder), photos[0]]) == 0
    assert "16 numbers" in capfd.readouterr().out
    assert run(["run", str(folder), "t1", "t2 t3"]) == 0
    assert capfd.readouterr().out.count("16 numbers") == 2


@pytest.mark.parametrize("texts", [[], ["t1 t2"]])
def test_what_was_done_to_images_is_told(
    clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: list[str]
) -> None:
    photos = [str(path) for path in write_images(tmp_path, 2, "L")]
    assert run(["run", str(clip[0]), *photos, *texts, "--provider", "cpu"]) == 0
    assert "note: 2 images in other colors (L) were made RGB" in capsys.readouterr().err


def test_towers_are_verified_again(
    clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clip[0], tmp_path / "out")
    again = ["verify", str(tmp_path / "out"), "--provider", "cpu"]
    assert run(again) == 0
    model = onnx.load(tmp_path / "out" / TEXT_TOWER)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 1:
            values = onnx.numpy_helper.to_array(tensor) + np.float32(0.1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "out" / TEXT_TOWER)
    capsys.readouterr()
    assert run(again) == 1
    assert "text_model.onnx, opened by itself" in capsys.readouterr().err
    (tmp_path / "out" / IMAGE_TOWER).unlink()
    (tmp_path / "out" / TEXT_TOWER).unlink()
    (tmp_path / "out" / IMAGE_TOWER).write_bytes(b"no model")
    assert run(again) == 1
    assert "text_model.onnx is missing" in capsys.readouterr().err

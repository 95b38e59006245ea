"""A folder of a model of images and text, compiled and used."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import awqc
from awqc.data.load import DataSource
from awqc.errors import CaptureError, Note, UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Sample
from awqc.huggingface.tasks import find_task
from awqc.options import parse_options
from awqc.program import IMAGE, TEXT
from awqc.running.runner import Runner
from awqc.runtimes.image_text import ImageText
from awqc.whole.from_folder import OpenedParts, open_generating
from benchmarks.folder_models import MODELS
from tests.media import write_images

CHEAP: dict[str, Any] = {
    "effort": "fast", "bits": 8, "group_size": 16, "provider": "cpu", "num_samples": 6,
    "formats": ("onnx",),
}  # fmt: skip
FILES = ("vision_encoder.onnx", "embed_tokens.onnx", "decoder_model_merged.onnx")
pytestmark = pytest.mark.slow
Compiled = tuple[awqc.CompiledBundle, Path, list[Note]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models") / "llava"
    return folder, MODELS["image-text-to-text/llava"].save(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def compiled(
    source: tuple[Path, Any], images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Compiled:
    base = tmp_path_factory.mktemp("compiled")
    lines = [{"image": str(path), "text": f"t{n} t{n + 30}"} for n, path in enumerate(images)]
    (base / "calib.jsonl").write_text("\n".join(map(json.dumps, lines)))
    notes: list[Note] = []
    result = awqc.compile(
        source[0], calib=base / "calib.jsonl", output_dir=base / "out", notify=notes.append, **CHEAP
    )
    assert isinstance(result, awqc.CompiledBundle)
    return result, base / "out", notes


def test_the_folder_is_laid_out_as_runners_know_it(compiled: Compiled) -> None:
    folder = compiled[1]
    names = {path.name for path in folder.iterdir()}
    assert {
        *FILES,
        "config.json",
        "tokenizer.json",
        "processor_config.json",
        "report.json",
    } <= names
    assert {path.name for path in (folder / "parts").iterdir()} == {"vision", "embed", "decoder"}
    report = json.loads((folder / "report.json").read_text())
    assert report["task"] == "image-text-to-text"
    assert report["verify"]["decoder.logits"]["rel"] < 0.05
    assert report["generated"]["samples"] == 1
    assert not any("made up" in note.text for note in compiled[2])  # the data was given


def test_the_models_run_in_onnxruntime_alone(
    compiled: Compiled, source: tuple[Path, Any], images: list[Path]
) -> None:
    vision, embed, decoder = (ort.InferenceSession(compiled[1] / name) for name in FILES)
    inputs = prompt(compiled[1], images[2], "t5 t9 t44")
    tokens = inputs["input_ids"].numpy()
    (rows,) = embed.run(None, {"input_ids": tokens})
    (seen,) = vision.run(None, {"pixel_values": inputs["pixel_values"].numpy()})
    rows[tokens == source[1].config.image_token_id] = seen.reshape(-1, seen.shape[-1])
    feeds = {
        "inputs_embeds": rows,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(tokens.shape[1])[None],
    }
    for spec in decoder.get_inputs():
        if spec.name not in feeds:
            feeds[spec.name] = np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
    logits = decoder.run(["logits"], feeds)[0]
    with torch.no_grad():
        wanted = source[1](**inputs).logits.numpy()
    assert np.linalg.norm(logits - wanted) / np.linalg.norm(wanted) < 0.05  # 8-bit noise


def prompt(folder: Path, image: Path, text: str) -> dict[str, torch.Tensor]:
    from PIL import Image

    processor = Processor.of(HFFolder(folder), (TEXT, IMAGE), prompted=True)
    return processor.inputs([Sample("a prompt", text, Image.open(image).convert("RGB"))])


def test_a_question_about_an_image_is_answered(compiled: Compiled, images: list[Path]) -> None:
    runner = Runner(compiled[1], max_new_tokens=8)
    given = [str(images[0]), "t5 t8", str(images[1]), str(images[2]), "t7"]
    answers = list(runner.answer(given))
    assert [name for name, _ in answers] == [str(path) for path in images[:3]]
    ((_, again),) = runner.answer([str(images[2]), "t7"])
    assert again.text == answers[2][1].text
    with pytest.raises(UsageError, match="before the text 't7' stands no image"):
        list(runner.answer(["t7"]))
    with pytest.raises(UsageError, match="language is for models that ask for one"):
        Runner(compiled[1], language="de")


@pytest.fixture(scope="module")
def of_one_size(images: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A model that goes by the size of each image, compiled on images of several."""
    base = tmp_path_factory.mktemp("one size")
    MODELS["image-text-to-text/llava_next"].save(base / "model")
    notes: list[Note] = []
    result = awqc.compile(
        base / "model",
        calib=images[0].parent,
        output_dir=base / "out",
        notify=notes.append,
        **CHEAP,
    )
    assert isinstance(result, awqc.CompiledBundle)
    return result, base / "out", notes


def test_images_are_brought_to_the_size_of_the_first(
    of_one_size: Compiled, images: list[Path]
) -> None:
    result, folder, notes = of_one_size
    assert result.report["images"] == {"height": 40, "width": 60}
    assert any("it is for images of 40 x 60 pixels" in note.text for note in notes)
    runner = Runner(folder, max_new_tokens=4)
    answers = list(runner.answer([str(images[0]), "t5 t8", str(images[1]), "t7"]))
    assert all(answer.text for _, answer in answers)
    assert [note for note in runner.notes if "other sizes" in note] == [
        "1 images of other sizes were brought to 40 x 60 pixels (height x width), for which the "
        "model is made"
    ]


def opened(path: Path, image_size: str) -> OpenedParts:
    folder, options = HFFolder.at(path), parse_options(image_size=image_size)
    task = find_task(folder.config(), None, where=str(path))
    return open_generating(folder, task, options, lambda note: None, DataSource())


def test_the_size_of_images_may_be_given(images: list[Path], tmp_path: Path) -> None:
    MODELS["image-text-to-text/llava_next"].save(tmp_path / "model")
    assert opened(tmp_path / "model", "48x32").parts.fixed.size == (48, 32)


def test_a_size_is_refused_where_images_may_have_any(tmp_path: Path) -> None:
    MODELS["image-text-to-text/llava"].save(tmp_path / "llava")
    with pytest.raises(UsageError, match=r"image_size='48x32'.*takes images of any"):
        opened(tmp_path / "llava", "48x32")
    MODELS["image-classification/vit"].save(tmp_path / "vit")
    with pytest.raises(UsageError, match="image_size is for models that read images and text in"):
        awqc.compile(tmp_path / "vit", image_size="48x32", **CHEAP)
    with pytest.raises(UsageError, match="write height x width in pixels, as 480x640"):
        awqc.compile(tmp_path / "vit", image_size="48", **CHEAP)


def test_what_a_processor_makes_of_another_size_is_refused(
    of_one_size: Compiled, images: list[Path]
) -> None:
    inputs = prompt(of_one_size[1], images[0], "t5")
    feeds = {name: value.numpy() for name, value in inputs.items()}
    model = ImageText(of_one_size[1])
    assert len(list(model.tokens(feeds, 2))) == 2
    feeds["image_sizes"] = feeds["image_sizes"] + 1
    with pytest.raises(UsageError, match=r"image_sizes is .* was compiled for images of"):
        list(model.tokens(feeds, 2))


def test_a_folder_says_what_it_is_for_where_its_architecture_is_for_text_too(
    compiled: Compiled, tmp_path: Path
) -> None:
    folder = copytree(compiled[1], tmp_path / "text")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Gemma3ForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(config))
    assert Runner(folder).task.name == "image-text-to-text"


def test_a_prompt_with_another_number_of_places_is_refused(
    compiled: Compiled, images: list[Path]
) -> None:
    inputs = prompt(compiled[1], images[0], "t5")
    feeds = {name: value.numpy() for name, value in inputs.items()}
    feeds["input_ids"] = np.delete(feeds["input_ids"], 4, axis=1)
    with pytest.raises(
        UsageError, match="has the image token 128 15 times, and the images give 16"
    ):
        list(ImageText(compiled[1]).tokens(feeds, 2))


def test_it_is_arranged_as_transformers_js_looks_for_it(compiled: Compiled, tmp_path: Path) -> None:
    from awqc.export.transformers_js import arrange

    arrange(copytree(compiled[1], tmp_path / "js"))
    assert {path.name for path in (tmp_path / "js" / "onnx").glob("*.onnx")} == {
        name.replace(".onnx", "_quantized.onnx") for name in FILES
    }


def test_what_cannot_be_is_refused(source: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(
        CaptureError, match=r"a model of images and text \(llava\) is several graphs"
    ):
        load_folder(source[0])
    other = tmp_path / "model"
    other.mkdir()
    for path in source[0].iterdir():
        if path.name != "processor_config.json":
            (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match=r"no processor .* is in the folder"):
        awqc.compile(other, **CHEAP)


def test_states_of_another_prompt_than_the_last_are_refused(compiled: Compiled) -> None:
    model = ImageText(compiled[1])
    _, states = model.step(np.array([[5, 6, 7]]), {}, {})
    model.step(np.array([[5, 6]]), {}, {})
    with pytest.raises(
        UsageError, match="seen 3 tokens of 1 texts, and the last call's have seen 2"
    ):
        model.step(np.array([[5, 6, 7, 8]]), {}, states)

"""Folders of models that read images or audio: inputs and axes recorded through their processor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awqc.errors import AwqcError, UsageError, worded
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.forwards import plain_forward
from awqc.huggingface.processor import PROCESSOR_FILES, Processor
from awqc.huggingface.samples import Sizes
from benchmarks.folder_models import MODELS

INPUTS = {
    "image-classification/vit": ["pixel_values=float32[batch,3,32,32]"],
    # whose processor must be told pieces of the image
    "keypoint-detection/vitpose": ["pixel_values=float32[batch,3,64,48]"],
}
SLOW = {
    "automatic-speech-recognition/wav2vec2": ["input_values=float32[batch,input_values_axis_1]"],
    "zero-shot-image-classification/clip": [
        "input_ids=int64[input_ids_batch,input_ids_axis_1]",
        "attention_mask=int64[input_ids_batch,input_ids_axis_1]",
        "pixel_values=float32[pixel_values_batch,3,32,32]",
    ],
    "zero-shot-object-detection/owlvit": [
        "input_ids=int64[batch,input_ids_axis_1]",
        "attention_mask=int64[batch,input_ids_axis_1]",
        "pixel_values=float32[batch,3,32,32]",
    ],
    "zero-shot-audio-classification/clap": [
        "input_ids=int64[input_ids_batch,input_ids_axis_1]",
        "attention_mask=int64[input_ids_batch,input_ids_axis_1]",
        "input_features=float32[input_features_batch,1,47,16]",
        "is_longer=bool[input_features_batch,1]",
    ],
    "object-detection/detr": [
        "pixel_values=float32[batch,3,pixel_values_axis_2,pixel_values_axis_3]",
        "pixel_mask=int64[batch,pixel_values_axis_2,pixel_values_axis_3]",
    ],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    made: dict[str, tuple[Path, Any]] = {}

    def save(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / name.replace("/", "-")
            made[name] = folder, MODELS[name].save(folder)
        return made[name]

    return save


@pytest.fixture(scope="module")
def vit(saved: Callable[[str], tuple[Path, Any]]) -> Path:
    return saved("image-classification/vit")[0]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [*INPUTS.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW.items())],
)
def test_inputs_and_axes_are_those_of_the_recorded_calls(
    name: str, inputs: list[str], saved: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, model = saved(name)
    program = load_folder(folder)
    assert {str(spec) for spec in program.inputs} == set(inputs)
    assert program.outputs[0] in model(**program.example)
    assert program.task.mask_input is None
    batch = {key: value[:1] for key, value in program.example.items()}
    with torch.no_grad():
        wanted = model(**batch)
    for output, value in zip(program.outputs, program.run(batch), strict=True):
        torch.testing.assert_close(value, wanted[output], rtol=1e-4, atol=1e-5)


def test_a_processor_that_pads_gives_no_free_length(
    saved: Callable[[str], tuple[Path, Any]],
) -> None:
    folder, _ = saved("audio-classification/audio-spectrogram-transformer")
    program = load_folder(folder)
    assert [str(spec) for spec in program.inputs] == ["input_values=float32[batch,64,32]"]
    assert program.task.reads == ("audio",)


def without_processor(folder: Path) -> None:
    for name in PROCESSOR_FILES:
        (folder / name).unlink(missing_ok=True)


def of_another_size(folder: Path) -> None:
    change(folder, size={"height": 48, "width": 48})


def of_another_kind(folder: Path) -> None:
    without_processor(folder)
    described = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
    (folder / PROCESSOR_FILES[0]).write_text(json.dumps(described))


def no_processor_class(folder: Path) -> None:
    change(folder, image_processor_type="Trainer")


def code_of_its_own(folder: Path) -> None:
    change(folder, image_processor_type="Mine", auto_map={"AutoImageProcessor": "mine.Mine"})


def no_json(folder: Path) -> None:
    (folder / PROCESSOR_FILES[0]).write_text("{")


def change(folder: Path, **changes: Any) -> None:
    path = folder / PROCESSOR_FILES[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_processor, r"no processor \(preprocessor_config\.json or .*which image becomes"),
        (of_another_size, r"ViTForImageClassification fails on what .*ViTImageProcessor.*"
                          r"pixel_values=\[2, 3, 48, 48\].*copy the model's own processor"),
        (of_another_kind, "processor files there are for audio.*the model reads image"),
        (no_processor_class, "'Trainer', which is no image processor of transformers"),
        (code_of_its_own, "the processor is Python code of its own"),
        (no_json, r"preprocessor_config\.json"),
    ],
)  # fmt: skip
def test_a_processor_that_does_not_fit_is_refused(
    damage: Callable[[Path], None], message: str, vit: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    damage(folder)
    with pytest.raises(AwqcError, match=message) as error:
        load_folder(folder)
    assert str(folder) in str(error.value)


@pytest.mark.slow
def test_a_mask_that_the_processor_makes_is_an_input_of_the_same_axes(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = saved("automatic-speech-recognition/wav2vec2")
    shutil.copytree(folder, tmp_path / "model")
    change(tmp_path / "model", return_attention_mask=True)
    assert [str(spec) for spec in load_folder(tmp_path / "model").inputs] == [
        "input_values=float32[batch,input_values_axis_1]",
        "attention_mask=int32[batch,input_values_axis_1]",
    ]


def test_a_processor_of_one_kind_is_none_for_two(vit: Path) -> None:
    with pytest.raises(
        UsageError, match=r"processor \(ViT.*\) takes no text, which the model reads"
    ):
        Processor.of(HFFolder.at(vit), ("text", "image"))


def test_texts_are_cut_to_what_the_model_takes(
    saved: Callable[[str], tuple[Path, Any]],
) -> None:
    folder, _ = saved("zero-shot-image-classification/clip")
    processor = Processor.of(HFFolder.at(folder), ("text", "image"))
    random = np.random.default_rng(0)
    made = processor.inputs([processor.maker().sample(random, Sizes(words=50))])
    assert made["input_ids"].shape == (1, 32)


def test_images_that_a_model_of_text_leaves_out_are_told(
    saved: Callable[[str], tuple[Path, Any]],
) -> None:
    folder, _ = saved("image-to-text/git")
    notes = [worded(note) for note in load_folder(folder).notes]
    assert any("pixel_values beside text" in note for note in notes)
    assert any("task='image-text-to-text' keeps it" in note for note in notes)


def test_results_that_stand_in_tuples_are_named_by_their_place() -> None:
    class Nested:
        def forward(self) -> dict[str, Any]:
            return {"logits": (torch.zeros(1), torch.ones(1)), "more": None}

    assert list(plain_forward(Nested())()) == ["logits_0", "logits_1"]


def test_a_processor_of_images_takes_no_audio(vit: Path) -> None:
    with pytest.raises(UsageError, match="has no sampling_rate, so it takes no audio"):
        assert Processor.of(HFFolder.at(vit), ("image",)).rate

"""The task of a folder, by transformers' tables."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from awqc.errors import CaptureError, UsageError
from awqc.huggingface.task_table import TASKS
from awqc.huggingface.tasks import find_task, listed_for
from awqc.program import AUDIO, IMAGE, TEXT

RECOGNISED = {
    "LlamaForCausalLM": "text-generation",
    "BertModel": "feature-extraction",
    "ViTForImageClassification": "image-classification",
    "ViTModel": "image-feature-extraction",
    "SegformerForSemanticSegmentation": "image-segmentation",
    "Mask2FormerForUniversalSegmentation": "image-segmentation",
    "DetrForObjectDetection": "object-detection",
    "GLPNForDepthEstimation": "depth-estimation",
    "Wav2Vec2ForSequenceClassification": "audio-classification",
    "Wav2Vec2ForCTC": "automatic-speech-recognition",
    "VitsModel": "text-to-speech",
    "BarkModel": "text-to-speech",
    "CLIPModel": "zero-shot-image-classification",
    "MineForImageClassification": "image-classification",  # by its ending
}


def config(architecture: str, kind: str = "mine", **more: object) -> SimpleNamespace:
    return SimpleNamespace(architectures=[architecture], model_type=kind, **more)


@pytest.mark.parametrize("architecture", RECOGNISED)
def test_a_task_is_recognised_by_the_architecture(architecture: str) -> None:
    found = find_task(config(architecture), None, where="here")
    assert found.name == RECOGNISED[architecture]


@pytest.mark.parametrize(
    ("architecture", "name", "reads"),
    [
        ("CLIPVisionModel", "image-feature-extraction", (IMAGE,)),
        ("Wav2Vec2Model", "feature-extraction", (AUDIO,)),
        ("BertModel", "feature-extraction", (TEXT,)),
        ("CLIPModel", "zero-shot-image-classification", (TEXT, IMAGE)),
    ],
)
def test_what_a_model_reads_tells_tasks_of_one_table_apart(
    architecture: str, name: str, reads: tuple[str, ...]
) -> None:
    found = find_task(config(architecture), None, where="here")
    assert (found.name, found.reads) == (name, reads)


@pytest.mark.parametrize(
    ("architecture", "name", "form"),
    [
        ("BlipForQuestionAnswering", "visual-question-answering", "prompted"),  # it generates
        ("ViltForQuestionAnswering", "visual-question-answering", "paired"),
        ("OwlViTForObjectDetection", "zero-shot-object-detection", "paired"),
        ("OwlViTModel", "zero-shot-image-classification", ""),  # compares texts with images
        ("ClapModel", "zero-shot-audio-classification", ""),
    ],
)
def test_what_a_class_offers_tells_forms_apart(architecture: str, name: str, form: str) -> None:
    found = find_task(config(architecture), None, where="here")
    assert found.name == name
    assert [each for each in ("prompted", "loops", "paired") if getattr(found, each)] == (
        [form] if form else []
    )
    assert found.with_prompt == bool(form)


def test_a_class_that_no_table_lists_is_loaded_by_its_name() -> None:
    found = find_task(config("TapasForQuestionAnswering", "tapas"), None, where="here")
    assert (found.name, found.load_class().__name__) == (
        "question-answering",
        "TapasForQuestionAnswering",
    )
    assert listed_for("VideoMAEForVideoClassification") == ["video classification"]
    assert listed_for("MineForNothing") == []


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("T5EncoderModel", "feature-extraction"),
        ("CLIPTextModelWithProjection", "feature-extraction"),
        ("CLIPVisionModelWithProjection", "image-feature-extraction"),
    ],
)
def test_a_class_that_no_table_lists_makes_features(architecture: str, name: str) -> None:
    found = find_task(config(architecture), None, where="here")
    assert (found.name, found.auto_class) == (name, architecture)
    assert found.load_class().__name__ == architecture


def test_the_encoder_of_a_pair_is_loaded_alone_where_it_was_saved_alone() -> None:
    """Its configuration may still be that of both, and a task be asked for."""
    both = config("T5EncoderModel", "t5", is_encoder_decoder=True)
    for task in (None, "feature-extraction", "sentence-similarity"):
        found = find_task(both, task, where="here")
        assert (found.auto_class, found.several) == ("T5EncoderModel", False)


def test_of_several_rows_of_a_task_the_one_with_the_type_of_model_is_taken() -> None:
    for kind, auto in {
        "segformer": "AutoModelForSemanticSegmentation",
        "mask2former": "AutoModelForUniversalSegmentation",
    }.items():
        found = find_task(config("Unknown", kind), "image-segmentation", where="here")
        assert found.auto_class == auto


def test_every_row_names_a_table_and_a_class_that_transformers_has() -> None:
    for task in TASKS:
        assert task.table()
        assert hasattr(task.load_class(), "from_pretrained")


@pytest.mark.parametrize(
    ("architecture", "name", "loops"),
    [
        ("DetrForObjectDetection", "object-detection", False),
        ("T5ForConditionalGeneration", "text2text-generation", True),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition", True),
        ("VisionEncoderDecoderModel", "image-to-text", True),
    ],
)
def test_an_encoder_decoder_is_for_what_it_generates_or_sees(
    architecture: str, name: str, loops: bool
) -> None:
    found = find_task(config(architecture, is_encoder_decoder=True), None, where="here")
    assert (found.name, found.loops) == (name, loops)


def test_an_encoder_decoder_may_judge_a_text() -> None:
    found = find_task(
        config("BartForSequenceClassification", is_encoder_decoder=True), None, where="here"
    )
    assert (found.name, found.several) == ("text-classification", False)


def test_an_encoder_decoder_is_refused_where_it_does_neither() -> None:
    what = r"here: an encoder-decoder \(mine\), which can be.*In Python, awqc\.compile\(model, run="
    with pytest.raises(CaptureError, match=what):
        find_task(config("BartModel", is_encoder_decoder=True), None, where="here")


@pytest.mark.parametrize("wanted", [None, "image-text-to-text", "image-to-text"])
def test_a_class_for_images_and_text_is_judged_by_its_form(wanted: str | None) -> None:
    """A model with an encoder of its own writes what it sees, another goes on with a text."""
    asked = config("LlavaForConditionalGeneration", "llava")
    found = find_task(asked, wanted, where="here")
    assert (found.name, found.prompted, found.several) == ("image-text-to-text", True, True)
    double = config("VisionEncoderDecoderModel", is_encoder_decoder=True)
    found = find_task(double, wanted, where="here")
    assert (found.name, found.loops) == ("image-to-text", True)


def test_a_decoder_that_also_hears_is_refused() -> None:
    with pytest.raises(CaptureError, match="has no encoder of its own"):
        find_task(config("Qwen2AudioForConditionalGeneration"), None, where="here")


@pytest.mark.parametrize(
    ("architecture", "reads"),
    [
        ("Florence2ForConditionalGeneration", (TEXT, IMAGE)),
        ("Pix2StructForConditionalGeneration", (IMAGE,)),
        ("VisionEncoderDecoderModel", (IMAGE,)),
    ],
)
def test_an_encoder_of_images_may_read_a_text_beside(
    architecture: str, reads: tuple[str, ...]
) -> None:
    found = find_task(config(architecture, is_encoder_decoder=True), None, where="here")
    assert (found.loops, found.reads, found.with_prompt) == (True, reads, len(reads) > 1)


def test_translation_is_a_name_of_a_task() -> None:
    asked = config("T5ForConditionalGeneration", is_encoder_decoder=True)
    assert find_task(asked, "translation", where="here").name == "text2text-generation"


def test_what_cannot_be_told_lists_each_task_once() -> None:
    with pytest.raises(UsageError, match="no task is called 'translate'; tasks: ") as error:
        find_task(config("BertModel"), "translate", where="here")
    assert str(error.value).count("image-segmentation") == 1
    with pytest.raises(UsageError, match="names Unknown, from which the task cannot be told"):
        find_task(config("Unknown"), None, where="here")

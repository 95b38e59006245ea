"""The tasks that a Hugging Face folder may be for, with the tables of transformers for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from awqc.program import AUDIO, IMAGE, MEDIA, TEXT, Kinds

SENTENCES = "sentence-similarity"
"""Task of a text encoder that makes one vector of a text, inside of the graph."""
JUDGING = ("text-classification", "token-classification", "question-answering")
"""Tasks of one call: an encoder-decoder makes what its decoder reads of the text itself."""


def names_in(value: str | Sequence[str]) -> Sequence[str]:
    """The class names that an entry of a table has: one, or several."""
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class FolderTask:
    """A task that can be captured, under the name that the ecosystem has for it.

    Attributes:
        name: the name of the task's pipeline in transformers.
        auto_class: name of the class in transformers that loads a model for it.
        mapping: name of transformers' table of the architectures that can do it.
        cached: whether the graph carries a key/value cache.
        vocabulary: whether the logits are over the vocabulary.
        reads: the kinds of data that such a model reads.
        loops: whether such a model is an encoder and a decoder, which `generate` calls in a loop.
        prompted: whether such a model is a decoder that continues text with images in it.
        paired: whether such a model is one graph that reads a text and an image together.
        pooled: whether what sentence-transformers puts behind such a model is a part of it.
        speaks: whether such a model makes sound of a text, in a way of its own that must be run.
    """

    name: str
    auto_class: str
    mapping: str
    cached: bool = False
    vocabulary: bool = False
    reads: Kinds = (TEXT,)
    loops: bool = False
    prompted: bool = False
    paired: bool = False
    pooled: bool = False
    speaks: bool = False

    @property
    def several(self) -> bool:
        """Whether such a model becomes several graphs."""
        return self.loops or self.prompted

    @property
    def judges(self) -> bool:
        """Whether such a model gives labels or places for a text that it reads once."""
        return self.reads == (TEXT,) and self.name in JUDGING

    @property
    def with_prompt(self) -> bool:
        """Whether each sample of such a model is a text with an image in it, or several."""
        return (self.several or self.paired) and len(self.reads) > 1

    @property
    def media(self) -> bool:
        """Whether such a model reads images or audio."""
        return not MEDIA.isdisjoint(self.reads)

    def load_class(self) -> Any:
        """The auto class itself."""
        import transformers

        return getattr(transformers, self.auto_class)

    def table(self) -> Mapping[str, str | tuple[str, ...]]:
        """Class names of all models that transformers has for this task, by type of model."""
        from transformers.models.auto import modeling_auto

        found: Mapping[str, str | tuple[str, ...]] = getattr(modeling_auto, self.mapping)
        return found

    def architectures(self) -> set[str]:
        """Those class names."""
        return {name for value in self.table().values() for name in names_in(value)}


_IMAGE_TEXT = FolderTask(
    "image-text-to-text",
    "AutoModelForImageTextToText",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    reads=(TEXT, IMAGE),
)
_QUESTION = FolderTask(
    "visual-question-answering",
    "AutoModelForVisualQuestionAnswering",
    "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES",
    reads=(TEXT, IMAGE),
)

TASKS = (
    FolderTask(
        "text-generation",
        "AutoModelForCausalLM",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        cached=True,
        vocabulary=True,
    ),
    FolderTask(
        "text2text-generation",
        "AutoModelForSeq2SeqLM",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        loops=True,
    ),
    FolderTask(
        "automatic-speech-recognition",
        "AutoModelForSpeechSeq2Seq",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
        reads=(AUDIO,),
        loops=True,
    ),
    FolderTask(
        "image-to-text",
        "AutoModelForImageTextToText",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        reads=(IMAGE,),
        loops=True,
    ),
    replace(_IMAGE_TEXT, prompted=True),
    replace(_IMAGE_TEXT, loops=True),
    replace(_QUESTION, prompted=True),
    replace(_QUESTION, loops=True),
    replace(_QUESTION, paired=True),
    FolderTask(
        "zero-shot-object-detection",
        "AutoModelForZeroShotObjectDetection",
        "MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES",
        reads=(TEXT, IMAGE),
        paired=True,
    ),
    FolderTask(
        "fill-mask",
        "AutoModelForMaskedLM",
        "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
        vocabulary=True,
    ),
    FolderTask(
        "text-classification",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    ),
    FolderTask(
        "token-classification",
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    ),
    FolderTask(
        "question-answering",
        "AutoModelForQuestionAnswering",
        "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    ),
    FolderTask(
        "image-classification",
        "AutoModelForImageClassification",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "image-segmentation",
        "AutoModelForSemanticSegmentation",
        "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "image-segmentation",
        "AutoModelForUniversalSegmentation",
        "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "image-segmentation",
        "AutoModelForInstanceSegmentation",
        "MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "object-detection",
        "AutoModelForObjectDetection",
        "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "depth-estimation",
        "AutoModelForDepthEstimation",
        "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
        reads=(IMAGE,),
    ),
    FolderTask(
        "automatic-speech-recognition",
        "AutoModelForCTC",
        "MODEL_FOR_CTC_MAPPING_NAMES",
        reads=(AUDIO,),
    ),
    FolderTask(
        "audio-classification",
        "AutoModelForAudioClassification",
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        reads=(AUDIO,),
    ),
    FolderTask(
        "zero-shot-image-classification",
        "AutoModelForZeroShotImageClassification",
        "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        reads=(TEXT, IMAGE),
    ),
    FolderTask(
        "text-to-speech",
        "AutoModelForTextToWaveform",
        "MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES",
        speaks=True,
    ),
    FolderTask(
        "text-to-speech",
        "AutoModelForTextToSpectrogram",
        "MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES",
        speaks=True,
    ),
    FolderTask(
        "image-feature-extraction", "AutoModel", "MODEL_FOR_IMAGE_MAPPING_NAMES", reads=(IMAGE,)
    ),
    FolderTask("feature-extraction", "AutoModel", "MODEL_MAPPING_NAMES"),
    FolderTask("feature-extraction", "AutoModel", "MODEL_MAPPING_NAMES", reads=(AUDIO,)),
    FolderTask(SENTENCES, "AutoModel", "MODEL_MAPPING_NAMES", pooled=True),
    FolderTask(
        "zero-shot-audio-classification", "AutoModel", "MODEL_MAPPING_NAMES", reads=(TEXT, AUDIO)
    ),
)
"""Where several tasks have an architecture, the first counts."""

"""Tasks: what a Hugging Face model is for, and the auto class that loads it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from awqc.errors import CaptureError, UsageError, spelled


@dataclass(frozen=True)
class FolderTask:
    """A task that can be captured, under the name that the ecosystem has for it.

    Attributes:
        name: the name of the task's pipeline in transformers.
        auto_class: name of the class in transformers that loads a model for it.
        mapping: name of transformers' table of the architectures that can do it.
        cached: whether the graph carries a key/value cache.
        vocabulary: whether the logits are over the vocabulary.
    """

    name: str
    auto_class: str
    mapping: str
    cached: bool = False
    vocabulary: bool = False

    def load_class(self) -> Any:
        """The auto class itself."""
        import transformers

        return getattr(transformers, self.auto_class)

    def architectures(self) -> set[str]:
        """Class names of all models that transformers has for this task."""
        from transformers.models.auto import modeling_auto

        names: set[str] = set()
        for value in getattr(modeling_auto, self.mapping).values():
            names.update([value] if isinstance(value, str) else value)
        return names


TASKS = (
    FolderTask(
        "text-generation",
        "AutoModelForCausalLM",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        cached=True,
        vocabulary=True,
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
    FolderTask("feature-extraction", "AutoModel", "MODEL_MAPPING_NAMES"),
)


def find_task(
    config: Any, wanted: str | None, *, where: str, default: str | None = None
) -> FolderTask:
    """The task that was asked for, or the one that the configuration's architecture does.

    An architecture that transformers has no table for (code of the model's own) is judged
    by its name's ending: ``…ForCausalLM``, ``…ForMaskedLM``, ….

    Args:
        config: a transformers configuration.
        wanted: a task's name, or None to recognise it.
        where: the model, for messages.
        default: the task of a configuration that names no architecture.

    Raises:
        UsageError: there is no such task, or it cannot be recognised.
        CaptureError: the model is an encoder-decoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise CaptureError(
            f"{where}: an encoder-decoder ({config.model_type}); decoders and encoders can be "
            "captured. Export its two halves as modules of their own"
        )
    by_name = {task.name: task for task in TASKS}
    if wanted is not None:
        if wanted not in by_name:
            raise UsageError(f"no task is called {wanted!r}; tasks: {', '.join(by_name)}")
        return by_name[wanted]
    named = list(getattr(config, "architectures", None) or [])
    for architecture in named:
        for task in TASKS:
            if architecture in task.architectures():
                return task
        for task in TASKS:
            suffix = task.auto_class.removeprefix("AutoModel")
            if suffix and architecture.endswith(suffix):
                return task
    if not named and default is not None:
        return by_name[default]
    raise UsageError(
        f"{where}: config.json names {', '.join(named) or 'no architecture'}, from which the "
        f"task cannot be told; give it with {spelled('task')}: {', '.join(by_name)}"
    )

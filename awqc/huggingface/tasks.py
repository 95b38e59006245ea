"""Tasks: what a Hugging Face model is for, by its configuration and the class that it names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from awqc.errors import BY_A_RUN, CaptureError, UsageError, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.task_table import TASKS, FolderTask, names_in
from awqc.kv_cache import TOKENS
from awqc.program import AUDIO, IMAGE, TEXT, Kinds

FIRST_READ = {"pixel_values": IMAGE, "input_values": AUDIO, "input_features": AUDIO}
"""Kinds of data by the names that transformers has for a model's main input."""

FEATURES_OF_TEXT = "get_text_features"
FEATURES = {IMAGE: "get_image_features", AUDIO: "get_audio_features"}
"""Methods of models that compare texts with data of another kind, each of which they encode."""

AUTO_MODEL = "AutoModel"
DECODER_TOKENS = f"decoder_{TOKENS}"

SAME = {
    "translation": "text2text-generation",
    "summarization": "text2text-generation",
    "text-to-audio": "text-to-speech",
}
"""Other names of tasks."""


def find_task(
    config: Any, wanted: str | None, *, where: str, default: str | None = None
) -> FolderTask:
    """The task that was asked for, or the one that the configuration's architecture does.

    An architecture that transformers has no table for (code of the model's own) is judged
    by its name's ending: ``…ForCausalLM``, ``…ForMaskedLM``, …; one of transformers' own classes
    without such an ending makes features.

    Args:
        config: a transformers configuration.
        wanted: a task's name, or None to recognise it.
        where: the model, for messages.
        default: the task of a configuration that names no architecture.

    Raises:
        UsageError: there is no such task, or it cannot be recognised.
        CaptureError: the model is an encoder-decoder and the task is none that generates, or the
            other way round.
    """
    found = _recognised(config) if wanted is None else _named(config, wanted)
    named = list(getattr(config, "architectures", None) or [])
    own = _of_class(named) if _recognised(config) is None else None
    if found is None:
        found = own
    elif own is not None and found.auto_class == AUTO_MODEL:  # which may load more than there is
        found = replace(found, auto_class=own.auto_class)
    if found is None and not named and default is not None:
        found = _named(config, default)
    double = bool(getattr(config, "is_encoder_decoder", False)) and _has_decoder(named)
    found = _of_form(found, double, named)
    if not double:
        found = _of_input(found, named)
    known = found is not None and (found.media or found.loops or found.judges or found.speaks)
    if double and not known:
        generate = (task.name for task in TASKS if task.loops or task.speaks)
        names = ", ".join(dict.fromkeys(generate))
        raise CaptureError(
            f"{where}: an encoder-decoder ({config.model_type}), which can be compiled for what it "
            f"generates: {names} ({spelled('task')}). {BY_A_RUN}"
        )
    if found is not None and found.loops and not double:
        raise CaptureError(
            f"{where}: {', '.join(named) or config.model_type} has no encoder of its own; of "
            f"models for {found.name} awqc compiles encoder-decoders only. {BY_A_RUN}"
        )
    if found is None:
        raise UsageError(
            f"{where}: config.json names {', '.join(named) or 'no architecture'}, from which the "
            f"task cannot be told; give it with {spelled('task')}: {', '.join(_names())}"
        )
    return found


def _of_form(found: FolderTask | None, double: bool, named: Sequence[str]) -> FolderTask | None:
    """Of the tasks that generate text from what ``found`` reads, that of the model's form.

    A class of transformers may load models with an encoder of their own, and without; the encoder
    may read images alone, or a text beside, which the model's forward then takes as well.
    """
    if found is None or not found.several:
        return found
    if not double and named and _is_known(named[0]) and not _offers(named[0], "generate"):
        once = (each for each in TASKS if each.auto_class == found.auto_class and each.paired)
        return next(once, found)
    fitting = [
        task
        for task in TASKS
        if task.several and task.auto_class == found.auto_class and task.loops == double
    ]
    if len(fitting) > 1:
        prompt = _takes_tokens(named) if named else found.with_prompt
        fitting = [task for task in fitting if task.with_prompt == prompt]
    return found if found in fitting or not fitting else fitting[0]


def ways_of(task: FolderTask) -> tuple[FolderTask, ...]:
    """What a model that was found for ``task`` may be, which only a run tells.

    No configuration says of a model that continues a prompt that `generate` of it runs an encoder
    of images, or of images and texts, and a decoder that reads what comes of them.
    """
    if not task.prompted:
        return (task,)
    others = (each for each in TASKS if each.loops and each.auto_class == task.auto_class)
    return (task, *sorted(others, key=lambda each: len(each.reads)))


def _has_decoder(named: Sequence[str]) -> bool:
    """Whether a class that is ``named`` first has a decoder, as far as its forward says.

    The encoder alone of an encoder-decoder may be saved with the configuration of both.
    """
    return not named or not _is_known(named[0]) or _takes(named, DECODER_TOKENS)


def _takes_tokens(named: Sequence[str]) -> bool:
    """Whether the forward of the class of transformers that is ``named`` first takes tokens."""
    return _takes(named, TOKENS)


def _takes(named: Sequence[str], argument: str) -> bool:
    import transformers

    forward = getattr(getattr(transformers, named[0], None), "forward", None)
    return forward is not None and argument in inspect.signature(forward).parameters


def _of_input(found: FolderTask | None, named: Sequence[str]) -> FolderTask | None:
    """Of the tasks with the auto class of ``found``, that which reads what the model does.

    A table of transformers may list models of text, images and audio alike.
    """
    import transformers

    if found is None or found.several or not named:
        return found
    if found.auto_class == AUTO_MODEL:
        for other, features in FEATURES.items():
            if _offers(named[0], FEATURES_OF_TEXT, features):
                rows = (row for row in TASKS if row.reads == (TEXT, other) and not row.with_prompt)
                return replace(next(rows), auto_class=AUTO_MODEL)
    first = getattr(getattr(transformers, named[0], None), "main_input_name", None)
    kind = FIRST_READ.get(first) if isinstance(first, str) else None
    if kind is None or kind in found.reads:
        return found
    same = (task for task in TASKS if task.auto_class == found.auto_class)
    return next((task for task in same if task.reads == (kind,)), found)


def _recognised(config: Any) -> FolderTask | None:
    for architecture in getattr(config, "architectures", None) or []:
        for task in TASKS:
            if architecture in task.architectures():
                return task
        for task in TASKS:
            suffix = task.auto_class.removeprefix(AUTO_MODEL)
            if suffix and architecture.endswith(suffix):
                own = _is_known(architecture)  # then no table leads to it
                return replace(task, auto_class=architecture) if own else task
    return None


def listed_for(architecture: str) -> list[str]:
    """What transformers lists ``architecture`` for, by its tables: ``["video classification"]``."""
    from transformers.models.auto import modeling_auto

    found: list[str] = []
    for name, table in vars(modeling_auto).items():
        words = name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES")
        if name == f"MODEL_FOR_{words}_MAPPING_NAMES":
            listed = {each for value in table.values() for each in names_in(value)}
            if architecture in listed:
                found.append(words.lower().replace("_", " "))
    return found


def _offers(architecture: str, *methods: str) -> bool:
    """Whether transformers' class of that name has all of ``methods``."""
    import transformers

    known = getattr(transformers, architecture, None)
    return all(callable(getattr(known, method, None)) for method in methods)


def _is_known(architecture: str) -> bool:
    """Whether transformers has a class of that name."""
    import transformers

    return isinstance(getattr(transformers, architecture, None), type)


def _of_class(named: Sequence[str]) -> FolderTask | None:
    """What a class of transformers that no table lists is for: it makes features of what it reads.

    As an encoder of a larger model that was saved alone.
    """
    import transformers

    known = getattr(transformers, named[0], None) if named else None
    if not isinstance(known, type) or not issubclass(known, transformers.PreTrainedModel):
        return None
    kind = FIRST_READ.get(known.main_input_name, TEXT)
    rows = (task for task in TASKS if task.auto_class == AUTO_MODEL and task.reads == (kind,))
    return next((replace(task, auto_class=named[0]) for task in rows), None)


def _named(config: Any, wanted: str) -> FolderTask:
    """The task called ``wanted``: of several, the one that has the configuration's type of model.

    Raises:
        UsageError: there is none.
    """
    rows = [task for task in TASKS if task.name == SAME.get(wanted, wanted)]
    if not rows:
        raise UsageError(f"no task is called {wanted!r}; tasks: {', '.join(_names())}")
    named = list(getattr(config, "architectures", None) or [])
    for task in rows:
        if config.model_type in task.table():
            return task
    own = rows[0].speaks and named and _is_known(named[0])  # in a table for what it does besides
    return replace(rows[0], auto_class=named[0]) if own else rows[0]


def _names() -> list[str]:
    return list(dict.fromkeys([*(task.name for task in TASKS), *SAME]))


def read_by(folder: HFFolder) -> tuple[Kinds, bool]:
    """The kinds of data that the model of a compiled ``folder`` reads; text where that is unknown.

    And whether it reads them in pairs.

    Raises:
        UsageError: the folder has no configuration that could be read.
    """
    if not (folder.path / "config.json").is_file():
        return (TEXT,), False
    config = folder.config()
    named = list(getattr(config, "architectures", None) or [])
    found = _recognised(config) or _of_class(named)
    found = _of_form(found, bool(getattr(config, "is_encoder_decoder", False)), named)
    found = _of_input(found, named)
    return ((TEXT,), False) if found is None else (found.reads, found.paired)

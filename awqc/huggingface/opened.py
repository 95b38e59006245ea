"""The model of a Hugging Face folder, or GGUF file, loaded for a task and not yet captured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.errors import CaptureError
from awqc.huggingface.config_values import check_complete
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.forwards import encoder_example
from awqc.huggingface.processor import Processor
from awqc.huggingface.recorded import EXAMPLES, examples, model_inputs
from awqc.huggingface.rotary import fix_rotary
from awqc.huggingface.task_table import FolderTask
from awqc.huggingface.tasks import find_task


@dataclass(frozen=True)
class Opened:
    """A model and what is known of it.

    Attributes:
        model: in float32 and eval mode.
        config: the model's.
        task: what it was loaded for.
        limit: the most tokens that it holds for, where its rotary embeddings update themselves.
        extra: names of tensors of the weights that have no place in it.
    """

    model: Any
    config: Any
    task: FolderTask
    limit: int | None
    extra: list[str]


def open_for_task(source: HFFolder, task: str | None) -> Opened:
    """Load the model of ``source`` for ``task``; None recognises it.

    Raises:
        UsageError: ``task`` is none that the model can do.
        CaptureError: the model cannot be loaded, or is several graphs.
    """
    where = str(source.path / source.gguf_file if source.gguf_file else source.path)
    config = source.config()
    default = "text-generation" if source.gguf_file else None
    chosen = find_task(config, task, where=where, default=default)
    if chosen.several or chosen.speaks:
        loops = "an encoder-decoder" if chosen.loops else "a model of images and text"
        what = "a model that speaks" if chosen.speaks else loops
        raise CaptureError(
            f"{where}: {what} ({config.model_type}) is several graphs, which this "
            "does not take; awqc compile and awqc.compile do, and awqc plan tells what they need"
        )
    if chosen.cached:
        check_complete(config, where)
    model, extra = source.model(chosen.load_class())
    return Opened(model, config, chosen, fix_rotary(model), extra)


def open_uncaptured(
    path: Path, *, task: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, dict[str, Any], str]:
    """The model of a folder as its own code runs it, without a cache; example inputs; its name.

    Raises:
        UsageError: a file is missing or is none of this model's, or transformers is missing.
        CaptureError: the model cannot be loaded.
    """
    source = HFFolder.at(path, trust_remote_code=trust_remote_code)
    opened = open_for_task(source, task)
    model = opened.model
    if opened.task.media:
        processor = Processor.of(source, opened.task.reads, opened.task.with_prompt)
        return model, model_inputs(model, processor, examples(processor, *EXAMPLES[0])), source.name
    model.config.use_cache = False
    return model, encoder_example(model), source.name

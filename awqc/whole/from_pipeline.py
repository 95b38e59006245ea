"""A diffusers folder: how its pipeline is run, and what is written of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from awqc.artifacts.copying import copy_tree
from awqc.data.load import DataSource
from awqc.data.text_files import read_lines
from awqc.errors import CaptureError, Note, UsageError, spelled
from awqc.huggingface.diffusion import (
    CONFIG,
    COUNTS,
    DiffusionFolder,
    pipeline_calls,
)
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.entries import EntryPoint
from awqc.recording.structures import Leaves
from awqc.whole.compiling import CompiledBundle
from awqc.whole.opened_run import OpenedRun
from awqc.whole.recorded_parts import Names, usual_names
from awqc.whole.recorded_run import RecordedRun

NUM_SAMPLES = 10
"""Images that are made where no number is asked for."""
WORDS = 6
DOERS = {"encode": "encoder", "decode": "decoder"}
"""What the ecosystem calls a part after what it does."""
INPUTS = {"vae_decoder": {"z": "latent_sample"}, "vae_encoder": {"x": "sample"}}
OUTPUTS = {
    "unet": {"output": "out_sample"},
    "transformer": {"output": "out_hidden_states"},
    "vae_decoder": {"output": "sample"},
    "vae_encoder": {"latent_dist.parameters": "latent_parameters"},
}
"""Names that Optimum's runner of pipelines looks for, by diffusers' names of folders."""


def open_pipeline(
    folder: DiffusionFolder,
    source: DataSource,
    options: Options,
    notify: Callable[[Note], object],
) -> OpenedRun:
    """The pipeline in ``folder``, and what lets it make images of prompts.

    The folder that comes of it is what Optimum's ``ORTDiffusionPipeline`` loads.

    Raises:
        UsageError: the data is not for such a model.
        CaptureError: the pipeline cannot be loaded.
    """
    if source.given is not None and source.text is None:
        raise UsageError(
            f"{folder.name}: reads prompts: give {spelled('calib')} a text file, one in each line"
        )
    with stage("load the pipeline …"):
        pipeline = folder.pipeline()
    prompts = _prompts(pipeline, source, options.seed, notify)
    count = options.num_samples or NUM_SAMPLES
    calls = pipeline_calls(pipeline, prompts, count, folder.name)
    made = sum(COUNTS) * -(-max(count, 2) // sum(COUNTS))

    def run(pipe: Any) -> object:
        return [_images(pipe(**call), type(pipe).__name__, folder.name) for call in calls]

    write = partial(_write, folder)
    return OpenedRun(
        folder.name, "diffusion", pipeline, run, made, NUM_SAMPLES, write, pipeline_names
    )


def _images(made: Any, pipeline: str, name: str) -> object:
    """The images in what a pipeline returned.

    Raises:
        CaptureError: there are none, as of one that makes videos or audio.
    """
    if not hasattr(made, "images"):
        raise CaptureError(
            f"{name}: {pipeline} makes {', '.join(vars(made))}, and of a folder awqc lets it make "
            "images. Load the pipeline in Python and call awqc.compile(pipeline, run=lambda pipe: "
            "…)"
        )
    return made.images


def pipeline_names(entry: EntryPoint, taken: Leaves, made: Leaves) -> Names:
    """Names of a part, its inputs and its outputs as the ecosystem has them."""
    usual = usual_names(entry, taken, made)
    own = (entry.path.replace(".", "_"), DOERS.get(entry.method, ""))
    part = "_".join(filter(None, own)) if own[1] else usual.part
    inputs, outputs = INPUTS.get(part, {}), OUTPUTS.get(part, {})
    return Names(
        part,
        {path: inputs.get(name, name) for path, name in usual.inputs.items()},
        {path: outputs.get(name, name) for path, name in usual.outputs.items()},
    )


def _prompts(
    pipeline: Any, source: DataSource, seed: int, notify: Callable[[Note], object]
) -> Sequence[str]:
    tokenizer = next(
        (value for value in vars(pipeline).values() if hasattr(value, "get_vocab")), None
    )
    if source.text is not None:
        return read_lines(source.text, tokenizer)
    if tokenizer is None:
        return [""]
    notify(
        Note(
            "prompts are made up of the tokenizer's words, and images of them are noise; give "
            f"some of yours for numbers that mean something ({spelled('calib')})",
            warning=True,
        )
    )
    known = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    words = [tokenizer.convert_tokens_to_string([word]).strip() for word in known]
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=WORDS)) for _ in range(NUM_SAMPLES)]


def _write(
    folder: DiffusionFolder, result: CompiledBundle, recorded: RecordedRun, target: Path
) -> None:
    """Write parts into folders of their names, each with its configuration."""
    folder.copy_processing(target)
    for part in recorded.parts:
        copy_tree(result.parts[part.name].folder, target / part.name)
        component = part.entry.path.partition(".")[0]
        config = folder.path / component / CONFIG
        if config.is_file():
            shutil.copyfile(config, target / part.name / CONFIG)

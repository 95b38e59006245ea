"""A diffusers folder: its pipeline is run, recorded and compiled by parts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.scratch import ScratchFolder
from awqc.data.load import DataSource
from awqc.data.text_files import read_lines
from awqc.errors import CaptureError, Note, UsageError, spelled
from awqc.huggingface.diffusion import (
    CONFIG,
    DiffusionFolder,
    pipeline_calls,
)
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.entries import EntryPoint
from awqc.recording.structures import Leaves
from awqc.whole.compiling import CompiledBundle
from awqc.whole.folder_files import write_whole_report
from awqc.whole.from_run import compile_run
from awqc.whole.recorded_parts import Names, RecordedPart, usual_names
from awqc.whole.recorded_run import Run

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


def compile_pipeline(
    folder: DiffusionFolder,
    source: DataSource,
    options: Options,
    given: Mapping[str, Any],
    notify: Callable[[Note], object],
    hold: ExitStack | None = None,
) -> CompiledBundle:
    """Compile the pipeline in ``folder`` part by part, and let it make images with them.

    The folder that comes of it is what Optimum's ``ORTDiffusionPipeline`` loads. What is
    finished of each part is kept until ``hold`` ends well.

    Raises:
        UsageError: an option or the data is not for such a model.
        CaptureError: the pipeline cannot be loaded, run or captured.
        VerificationError: a part or the whole is not the model that was asked for.
    """
    pipeline, run = open_pipeline(folder, source, options, notify)
    result, parts = compile_run(pipeline, run, options, given, notify, pipeline_names, hold)
    result.report = {**result.report, "model": folder.name, "task": "diffusion"}
    files = ScratchFolder()
    _write(folder, result, parts, files.path)
    return replace(result, files=files)


def open_pipeline(
    folder: DiffusionFolder,
    source: DataSource,
    options: Options,
    notify: Callable[[Note], object],
) -> tuple[Any, Run]:
    """The pipeline in ``folder``, and what lets it make images of prompts.

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
    calls = pipeline_calls(pipeline, prompts, options.num_samples or NUM_SAMPLES, folder.name)

    def run(pipe: Any) -> object:
        return [_images(pipe(**call), type(pipe).__name__, folder.name) for call in calls]

    return pipeline, run


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
    folder: DiffusionFolder,
    result: CompiledBundle,
    parts: Sequence[RecordedPart],
    target: Path,
) -> None:
    """Write parts into folders of their names, each with its configuration."""
    folder.copy_processing(target)
    for part in parts:
        copy_tree(result.parts[part.name].folder, target / part.name)
        component = part.entry.path.partition(".")[0]
        config = folder.path / component / CONFIG
        if config.is_file():
            shutil.copyfile(config, target / part.name / CONFIG)
    write_whole_report(result.report, target)

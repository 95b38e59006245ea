"""A folder of a model that speaks: how it is run, and what is written of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.safetensors_file import Unwritten, write_safetensors
from awqc.data.load import DataSource
from awqc.data.spoken import Spoken, read_spoken
from awqc.errors import Note, UsageError, spelled
from awqc.huggingface.folder import INDEX
from awqc.huggingface.processor import Processor
from awqc.huggingface.runner_files import write_processing
from awqc.huggingface.speaker import Speaker
from awqc.huggingface.speaking import AROUND, VOCODER, SpeakingFolder
from awqc.huggingface.spoken_settings import limits, made_up, told_of, without_chance
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.whole.compiling import CompiledBundle
from awqc.whole.opened_run import OpenedRun
from awqc.whole.recorded_run import RecordedRun

NUM_SAMPLES = 8
"""Texts that are spoken where no number is asked for."""
NEW_TOKENS = 48
"""Tokens that are made of a text at most, where no number is asked for."""
SHARES = (1.0, 0.85, 0.7, 0.55)
"""Of that, in turn: so sounds have several lengths, also of a model that knows no end."""
WORDS = (8, 12, 9, 14, 10, 11)
"""Words of texts that are made up, in turn."""


def open_speaking(
    folder: SpeakingFolder,
    source: DataSource,
    options: Options,
    notify: Callable[[Note], object],
) -> OpenedRun:
    """The model in ``folder``, and what lets it speak some texts.

    Raises:
        UsageError: the data is not for such a model.
        CaptureError: the model cannot be loaded.
    """
    if source.given is not None and source.text is None:
        raise UsageError(
            f"{folder.name}: speaks texts: give {spelled('calib')} a text file, one in each line, "
            "or a .jsonl file with a text in each"
        )
    for text in folder.notes:
        notify(Note(text, warning=True))
    with stage("load the model …"):
        speaker = folder.speaker()
    count = options.num_samples or NUM_SAMPLES
    texts = _texts(folder, speaker, source, options, count, notify)
    without_chance(speaker)
    limit, most = limits(speaker), options.seq_len or NEW_TOKENS

    def run(speaking: Speaker) -> list[Tensor]:
        made = []
        for place, each in enumerate(texts):
            limit(most, SHARES[place % len(SHARES)])
            made.append(speaking(each.text, each.given))
        return made

    told = {"given": {name: _plain(value) for name, value in texts[0].given.items()}}
    write = partial(_write, folder)
    return OpenedRun(
        folder.name, folder.task.name, speaker, run, len(texts), NUM_SAMPLES, write, told=told
    )


def _texts(
    folder: SpeakingFolder,
    speaker: Speaker,
    source: DataSource,
    options: Options,
    count: int,
    notify: Callable[[Note], object],
) -> list[Spoken]:
    """``count`` texts of those given, or made up, with all that the model needs beside them."""
    usual = made_up(speaker, options.seed)
    told: list[str] = []
    if source.text is None:
        found = _made_up_texts(folder, options.seed, count)
        told.append(
            "texts are made up of the tokenizer's words, and speaking them is noise; give some of "
            f"yours for numbers that mean something ({spelled('calib')})"
        )
    else:
        found = read_spoken(source.text, speaker)[:count]
    if len(found) < 2:
        raise UsageError(
            f"{source.text or folder.name}: {len(found)} texts are there; give two at least: one "
            "is held back"
        )
    lacking = (name for name in usual if not all(name in each.given for each in found))
    for text in (*told, *told_of({name: usual[name] for name in lacking})):
        notify(Note(text, warning=True))
    return [Spoken(each.text, {**usual, **each.given}) for each in found]


def _made_up_texts(folder: SpeakingFolder, seed: int, count: int) -> list[Spoken]:
    maker = Processor.of(folder.origin, folder.task.reads).maker()
    random = np.random.default_rng(seed)
    return [Spoken(maker.text(random, WORDS[place % len(WORDS)])) for place in range(count)]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _write(
    folder: SpeakingFolder, result: CompiledBundle, recorded: RecordedRun, target: Path
) -> None:
    """Write parts into folders of their names, and beside them what speaks with them."""
    write_processing(folder.origin, target)
    _copy_plain(folder.origin.path, target)
    if folder.vocoder is not None:
        (target / VOCODER).mkdir(exist_ok=True)
        _copy_plain(folder.vocoder, target / VOCODER)
    for part in recorded.parts:
        copy_tree(result.parts[part.name].folder, target / part.name)
    around = {name: Unwritten.of(value.contiguous()) for name, value in recorded.around.items()}
    write_safetensors(around, target / AROUND, {})


def _copy_plain(source: Path, target: Path) -> None:
    """Copy the settings in ``source`` that are not in ``target`` yet."""
    for file in sorted(source.glob("*.json")):
        if not file.name.endswith(INDEX[1:]) and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)

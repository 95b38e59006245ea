"""Folders of models that are run to find their parts: diffusion pipelines, models that speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from awqc.artifacts.scratch import ScratchFolder
from awqc.data.load import DataSource
from awqc.errors import Note
from awqc.huggingface.diffusion import DiffusionFolder
from awqc.huggingface.speaking import SpeakingFolder
from awqc.options import Options
from awqc.whole.compiling import CompiledBundle
from awqc.whole.folder_files import write_whole_report
from awqc.whole.from_pipeline import open_pipeline
from awqc.whole.from_run import compile_run
from awqc.whole.from_speaking import open_speaking
from awqc.whole.opened_run import OpenedRun

RunFolder = DiffusionFolder | SpeakingFolder
"""A folder of such a model."""


def open_run(
    folder: RunFolder, source: DataSource, options: Options, notify: Callable[[Note], object]
) -> OpenedRun:
    """The model in ``folder``, and what runs it on samples.

    Raises:
        UsageError: the data is not for such a model.
        CaptureError: it cannot be loaded.
    """
    if isinstance(folder, DiffusionFolder):
        return open_pipeline(folder, source, options, notify)
    return open_speaking(folder, source, options, notify)


def compile_run_folder(
    folder: RunFolder,
    source: DataSource,
    options: Options,
    given: Mapping[str, Any],
    notify: Callable[[Note], object],
    hold: ExitStack | None = None,
) -> CompiledBundle:
    """Compile the model in ``folder`` part by part, and let it run with them.

    What is finished of each part is kept until ``hold`` ends well.

    Raises:
        UsageError: an option or the data is not for such a model.
        CaptureError: the model cannot be loaded, run or captured.
        VerificationError: a part or the whole is not the model that was asked for.
    """
    opened = open_run(folder, source, options, notify)
    result, recorded = compile_run(
        opened.model, opened.run, options, given, notify, opened.naming, hold
    )
    known = {"model": opened.name, "task": opened.task, **(opened.told or {})}
    result.report = {**result.report, **known}
    files = ScratchFolder()
    opened.write(result, recorded, files.path)
    write_whole_report(result.report, files.path)
    return replace(result, files=files)

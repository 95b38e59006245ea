"""Speed and memory of a model of several graphs: each file, and the whole where it can be run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from awqc.artifacts.names import MERGED_MODEL, MODEL, TUNED
from awqc.artifacts.scratch import scratch_folder
from awqc.bench.bench import FLOAT_ONNX, Spec, onnx_spec, take_turns
from awqc.bench.workload import Workload
from awqc.bundle.parts import Bundle
from awqc.data.load import DataSource
from awqc.errors import UsageError, spelled
from awqc.options import Options
from awqc.runtimes.onnxruntime import resolve_provider
from awqc.sources.opening import find_run_folder, find_several_graphs
from awqc.whole.folder_files import fixed_size, write_layout
from awqc.whole.from_folder import open_generating
from awqc.whole.part_files import WrittenPart, written_parts
from awqc.whole.recorded_run import record_run
from awqc.whole.run_folders import open_run

FORMS = {"quantized ort": TUNED, "quantized onnx": "onnx"}
"""What is measured, by the format of its file."""


def bench_whole(
    folder: Path,
    *,
    against: str | None = None,
    options: Options,
    workload: Workload | None = None,
    turns: int = 5,
    threads: int = 0,
) -> dict[str, Any]:
    """Measure each file in ``folder``, and the whole where awqc can run it.

    With ``against`` the original is captured part by part and written as float ONNX, which is
    measured beside. Of ``options`` those count that say how it is opened, and where models run.

    Returns:
        ``parts``, each as `awqc.bench.bench.bench` gives it, and ``whole`` likewise.

    Raises:
        UsageError: a file is missing, or the original is none of such a model.
        AwqcError: a form does not run.
    """
    load = workload or Workload()
    device = resolve_provider(options.provider)
    files: dict[Path, WrittenPart] = {}
    for part in written_parts(folder).values():
        files[part.model] = part  # of those in one file the last one: it reads tokens
    with scratch_folder() as scratch:
        if against is not None:
            _write_float(against, options, scratch, fixed_size(folder))
        found: dict[str, Any] = {"parts": {}}
        for model, part in files.items():
            specs = {
                form: onnx_spec(part.files[file], device)
                for form, file in FORMS.items()
                if file in part.files
            }
            beside = scratch / model.relative_to(folder)
            if against is not None:
                if not beside.is_file():
                    raise UsageError(
                        f"{against}: has no part {part.name}, which {folder} has; give the original"
                    )
                specs[FLOAT_ONNX] = onnx_spec(beside, device)
            found["parts"][part.name] = take_turns(part.name, specs, load, turns, threads, device)
        if any(model.name == MERGED_MODEL for model in files):
            found["whole"] = take_turns(
                folder.name, _wholes(folder, against, scratch, device), load, turns, threads, device
            )
    return found


def _wholes(folder: Path, against: str | None, scratch: Path, provider: str) -> dict[str, Spec]:
    """The folders that run, by their form: as `awqc run` runs them."""
    tuned = (folder / TUNED / MERGED_MODEL).is_file()
    wholes = {"quantized ort" if tuned else "quantized onnx": folder}
    if against is not None:
        wholes[FLOAT_ONNX] = scratch
    return {
        form: {"kind": "whole", "folder": str(place), "provider": provider}
        for form, place in wholes.items()
    }


def _write_float(
    against: str, options: Options, target: Path, image_size: tuple[int, int] | None
) -> None:
    """Write the float parts of the original into ``target``, as a compile lays them out.

    One that is made for images of one size takes them in ``image_size``.

    Raises:
        UsageError: it is no folder of a model of several graphs.
        CaptureError: it cannot be loaded, run or captured.
    """
    how = options.task, options.trust_remote_code, options.adapter
    if (run := find_run_folder(against, *how)) is not None:
        made = open_run(run, DataSource(), options, lambda _: None)
        recorded = record_run(made.model, made.run, options, made.naming)
        _export(Bundle({part.name: part.program for part in recorded.parts}), target)
        return
    several = find_several_graphs(against, *how)
    if several is None:
        raise UsageError(
            f"{against}: is no folder of a model of several graphs; what was compiled from Python "
            f"is measured without {spelled('against')}"
        )
    opened = open_generating(
        several[0], several[1], options, lambda _: None, DataSource(), image_size
    )
    with scratch_folder() as scratch:
        folders = _export(opened.parts.bundle, scratch)
        write_layout(folders, several[0], target, partial(opened.way.write, opened.parts))


def _export(bundle: Bundle, target: Path) -> dict[str, Path]:
    """Write each part into a folder of its own in ``target``; the folders by part."""
    from awqc.export.onnx import export_onnx

    folders = {name: target / name for name in bundle.parts}
    for name, program in bundle.parts.items():
        folders[name].mkdir()
        export_onnx(program, folders[name] / MODEL)
    return folders

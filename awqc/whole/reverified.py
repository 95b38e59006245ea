"""The folder of a model of several graphs, verified again: files, parts, and the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from awqc.artifacts.manifest import MANIFEST, changed, read_manifest
from awqc.bundle.parts import Bundle, Runner
from awqc.data.load import Calib, DataSource
from awqc.errors import Note, UsageError, VerificationError, spelled
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Followed
from awqc.huggingface.task_table import FolderTask
from awqc.options import Options
from awqc.program import Batch, Program
from awqc.runtimes.base import LoadedModel
from awqc.sources.opening import find_run_folder, find_several_graphs
from awqc.verify.comparison import ExportedForm
from awqc.verify.reverify import check_forms, judge_forms, open_quantized, refuse_limit
from awqc.verify.verification import Verification
from awqc.whole.compiling import check_whole_loss, measure_whole
from awqc.whole.folder_files import fixed_size
from awqc.whole.from_folder import generated, open_generating, read_samples
from awqc.whole.from_run import MOST_JUDGED, measure_run, spread
from awqc.whole.part_files import WrittenPart, written_parts
from awqc.whole.recorded_run import record_run
from awqc.whole.run_folders import RunFolder, open_run

HOLD_MODELS = (".onnx", ".data", ".pt2", ".safetensors")
"""Endings of files that a model is made of."""

Judged = dict[str, Any]


@dataclass(frozen=True)
class _Original:
    """What the original shows of the parts, and what measures the whole beside it.

    Attributes:
        programs: the float parts.
        batches: what reached each.
        whole: measures the whole, whose parts are run by what it is given, and refuses a loss
            beyond a limit.
        notes: what to tell of the data.
    """

    programs: Mapping[str, Program]
    batches: Mapping[str, Sequence[Batch]]
    whole: Callable[[Mapping[str, Runner], float], Judged]
    notes: list[str] = field(default_factory=list)


def reverify_whole(
    folder: Path,
    *,
    calib: Calib | None = None,
    against: str | None = None,
    options: Options,
    max_loss: float | None = None,
) -> dict[str, Any]:
    """Compare each exported part with its ``model.pt2``, and the whole with the original.

    With ``against`` the original runs on the data, parts are judged on what reaches them then, and
    the whole on what it gives; without it parts are judged on made-up inputs. Of ``options`` those
    count that say how models and data are read, what verifies, and where.

    Raises:
        UsageError: a file is missing, the original is none of this model, or an option is not for
            such a model.
        VerificationError: a file is gone or is not what was written, forms disagree, or the loss
            is beyond ``max_loss``.
    """
    refuse_limit(max_loss, against)
    if calib is not None and against is None:
        raise UsageError(
            f"{folder}: is a model of several graphs, and what each reads is recorded while "
            f"the original runs: give {spelled('against')} beside {spelled('calib')}"
        )
    if options.weights is not None:
        raise UsageError(
            f"{spelled('weights')} is for a model that a factory makes; {folder} was made of a "
            "folder that brings its own"
        )
    parts = written_parts(folder)
    notes = _check_files(folder)
    programs = {name: _opened(part) for name, part in parts.items()}
    forms = {name: part.forms(programs[name], options.verify_with) for name, part in parts.items()}
    for name, part in parts.items():
        check_forms(part.folder, forms[name], options.verify_with)
    original = None
    if against is not None:
        original = _original(folder, against, DataSource.of(calib), options)
        _check_same(against, programs, original.programs)
        notes += original.notes
    found: dict[str, Any] = {"parts": {}, "notes": notes}
    for name, program in programs.items():
        judged = _judge(program, name, original, forms[name], options, max_loss)
        found["parts"][name] = judged.as_dict()
    if original is not None:
        runners = {name: _runner(forms[name], options) for name in parts}
        found |= original.whole(runners, float("inf") if max_loss is None else max_loss)
    return found


def _opened(part: WrittenPart) -> Program:
    program = open_quantized(part.folder)
    program.name = part.name
    return program


def _check_files(folder: Path) -> list[str]:
    """What to tell of files that are not what was written.

    Raises:
        VerificationError: one is gone, or a model is made of it.
    """
    files = read_manifest(folder)
    if files is None:
        return [f"there is no {MANIFEST} that tells what was written, so files were not compared"]
    if gone := [name for name in files if not (folder / name).exists()]:
        raise VerificationError(
            f"{folder}: {gone[0]} is gone, which was written by the compile; compile again"
        )
    other = changed(folder, files)
    if models := [name for name in other if name.endswith(HOLD_MODELS)]:
        raise VerificationError(
            f"{folder}: {models[0]} is not what was written by the compile; compile again"
        )
    return [f"{name} was changed since the compile" for name in other]


def _judge(
    program: Program,
    name: str,
    original: _Original | None,
    forms: Sequence[ExportedForm],
    options: Options,
    max_loss: float | None,
) -> Verification:
    if original is None:
        made_up = DataSource.of(None).load(program, seed=options.seed).held_out
        return judge_forms(program, None, made_up, forms, options.provider, None)
    float_program, batches = original.programs[name], original.batches[name]
    return judge_forms(program, float_program, batches, forms, options.provider, max_loss)


def _runner(forms: Sequence[ExportedForm], options: Options) -> Runner:
    """What runs a part as a user would: in onnxruntime's own form, where it is there."""
    chosen = max(forms, key=lambda form: (form.runtime == "onnxruntime", form.format == "ort"))
    model: LoadedModel = chosen.opened(exact=False, provider=options.provider)
    return lambda batch: dict(zip(model.outputs, model.run(batch), strict=True))


def _check_same(
    against: str, programs: Mapping[str, Program], original: Mapping[str, Program]
) -> None:
    """Refuse an original of other parts.

    Raises:
        UsageError: it is one.
    """

    def described(parts: Mapping[str, Program]) -> dict[str, list[str]]:
        return {name: sorted(spec.name for spec in part.inputs) for name, part in parts.items()}

    wanted, found = described(programs), described(original)
    if wanted != found:
        told = [
            "; ".join(f"{name} of {', '.join(inputs)}" for name, inputs in each.items())
            for each in (found, wanted)
        ]
        raise UsageError(
            f"{against}: has the parts {told[0]}; the compiled model has {told[1]}. Give the "
            "original, and parts that were named at the compile cannot be compared"
        )


def _original(folder: Path, against: str, source: DataSource, options: Options) -> _Original:
    """The original, which runs on the data.

    Raises:
        UsageError: it is no folder of a model of several graphs, or none of the data.
        CaptureError: it cannot be loaded, run or captured.
    """
    how = options.task, options.trust_remote_code, options.adapter
    if (run := find_run_folder(against, *how)) is not None:
        return _of_run(folder, run, source, options)
    several = find_several_graphs(against, *how)
    if several is None:
        raise UsageError(
            f"{against}: is no folder of a model of several graphs, as {folder} is; what was "
            f"compiled from Python is verified without {spelled('against')}"
        )
    return _of_generating(folder, several[0], several[1], source, options)


def _of_generating(
    folder: Path, origin: HFFolder, task: FolderTask, source: DataSource, options: Options
) -> _Original:
    notes: list[str] = []
    size = fixed_size(folder)
    opened = open_generating(origin, task, options, _noting(notes), source, size)
    samples = read_samples(opened.generating, source, options, _noting(notes))
    followed: list[Followed] = [opened.parts.follow(each, opened.most) for each in samples]
    traces = [each.trace for each in followed]
    bundle: Bundle = opened.parts.bundle

    def whole(runners: Mapping[str, Runner], limit: float) -> Judged:
        found = measure_whole(bundle, runners, traces)
        check_whole_loss(bundle, found, limit)
        return {"verify": found, "generated": generated(opened, folder, samples, followed)}

    batches = {name: [seen[name] for seen, _ in traces] for name in bundle.parts}
    return _Original(bundle.parts, batches, whole, notes)


def _of_run(folder: Path, origin: RunFolder, source: DataSource, options: Options) -> _Original:
    notes: list[str] = []
    opened = open_run(origin, source, options, _noting(notes))
    recorded = record_run(opened.model, opened.run, options, opened.naming)

    def whole(_: Mapping[str, Runner], limit: float) -> Judged:
        folders = {part.name: folder / part.name for part in recorded.parts}
        return {"run": measure_run(recorded, folders, options.seed, limit)}

    return _Original(
        {part.name: part.program for part in recorded.parts},
        {part.name: spread(part.batches(), MOST_JUDGED) for part in recorded.parts},
        whole,
        notes,
    )


def _noting(notes: list[str]) -> Callable[[Note], object]:
    return lambda note: notes.append(note.text)

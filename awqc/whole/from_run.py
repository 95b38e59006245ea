"""A model that a function of the caller's runs: compiled by parts, run with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.bundle.parts import Bundle
from awqc.data.calibration import CalibrationData
from awqc.errors import CaptureError, Note, VerificationError
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.around import noting_reads
from awqc.recording.forms import form_of, telling_numbers
from awqc.verify.limits import check_loss
from awqc.whole.compiling import REACHES, CompiledBundle, check_exclude, compile_parts, held_back
from awqc.whole.held_choices import Choices, StrayedError
from awqc.whole.recorded_parts import Naming, RecordedPart, usual_names, wires
from awqc.whole.recorded_run import RecordedRun, Run, record_run, run_compiled
from awqc.whole.results import compare_results

MOST_CALLS, MOST_JUDGED = 64, 8
"""Calls of a part that it is calibrated on, and judged by, at most."""
WHOLE = "the whole, run with its parts compiled"
OF_THE_WHOLE = ("inputs", "dynamic", "task", "trust_remote_code", "num_samples", "seq_len", "part",
                "image_size")  # fmt: skip


def compile_run(
    model: Any,
    run: Run,
    options: Options,
    given: Mapping[str, Any],
    notify: Callable[[Note], object],
    naming: Naming = usual_names,
    hold: ExitStack | None = None,
) -> tuple[CompiledBundle, RecordedRun]:
    """Compile what ``run`` calls of ``model``, and run it again with what was compiled.

    The modules that ``run`` calls from outside of all modules become parts; their calls, all but
    the last ones, are what they are calibrated on. ``given`` are ``options`` as they were given.
    What is finished of each part is kept until ``hold`` ends well.

    Raises:
        UsageError: ``model`` has no modules, or ``run`` calls none; an option is not for it.
        CaptureError: ``run`` fails, or a part cannot be captured.
        VerificationError: a part or the whole is not the model that was asked for.
    """
    recorded = record_run(model, run, options, naming)
    parts = recorded.parts
    bundle = Bundle({part.name: part.program for part in parts})
    check_exclude(bundle, options)
    for name, reason in recorded.opened.items():
        first = reason.splitlines()[0]
        notify(Note(f"{name} is no graph, so what it calls are parts: {first}"))
    for part in parts:
        for text in _told(part):
            notify(Note(f"{part.name}: {text}"))
    own = {name: value for name, value in given.items() if name not in OF_THE_WHOLE}
    data = {part.name: data_of_calls(part) for part in parts}
    result = compile_parts(bundle, data, own, notify, hold)
    result.report = {
        "model": type(model).__name__,
        **result.report,
        "wiring": [asdict(wire) for wire in wires(parts)],
        "calls": {part.name: len(part.calls) for part in parts},
        "entries": {part.name: part.described(_numbers(part, parts)) for part in parts},
        "opened": dict(recorded.opened),
    }
    if any(name in options.formats for name in ("onnx", "ort")):
        folders = {name: part.folder for name, part in result.parts.items()}
        with stage("run what was compiled …"):
            result.report["run"], around = _run_with_parts(recorded, folders, options)
        recorded = replace(recorded, around=around)
    return result, recorded


def _numbers(part: RecordedPart, parts: Sequence[RecordedPart]) -> dict[str, Any]:
    """The numbers in the calls of ``part`` that tell it from other parts of the same method."""
    forms = [each for each in parts if each.entry == part.entry]
    telling = telling_numbers([each.calls[0] for each in forms])
    return dict(form_of(part.calls[0].arguments, telling).numbers)


def _told(part: RecordedPart) -> Iterator[str]:
    """What a user must know of the sizes of a part."""
    fixed = [
        spec.name
        for spec in part.program.inputs
        if not any(isinstance(size, str) for size in spec.shape) and spec.shape
    ]
    if fixed:
        yield (
            f"all sizes of {', '.join(fixed)} are fixed, since they were the same in all "
            f"{len(part.calls)} calls; let run take samples of other sizes for more"
        )


def data_of_calls(part: RecordedPart, times: int = 1) -> CalibrationData:
    """Calls to calibrate on, and the last ones to judge by, each spread over all.

    ``times`` as many calls are foreseen.
    """
    batches = part.batches() * times
    kept = held_back(len(batches))
    return CalibrationData(
        tuple(spread(batches[:-kept], MOST_CALLS)),
        tuple(spread(batches[-kept:], MOST_JUDGED)),
        REACHES,
    )


def spread(batches: Sequence[Any], most: int) -> list[Any]:
    """At most so many of ``batches``, at equal distances."""
    count = min(most, len(batches))
    return [batches[place * len(batches) // count] for place in range(count)]


def _run_with_parts(
    recorded: RecordedRun, folders: Mapping[str, Path], options: Options
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`measure_run`, and the tensors of what runs around the parts.

    Raises:
        VerificationError: it fails, or has moved by more than ``max_loss``.
    """
    with noting_reads(recorded.modules) as around:
        try:
            found = measure_run(recorded, folders, options.seed, options.max_loss)
        except VerificationError as error:
            raise VerificationError(f"{error.text}. Nothing was written") from error
    return found, around


def measure_run(
    recorded: RecordedRun, folders: Mapping[str, Path], seed: int, limit: float
) -> dict[str, Any]:
    """What the run returns with the compiled parts in place, against what it returned before.

    Where code between the parts decided otherwise, as where another token was likeliest, it is run
    once more with the decisions that were recorded, and the loss is judged by that.

    Raises:
        VerificationError: it fails, or has moved by more than ``limit``.
    """
    free = Choices()
    try:
        found = compare_results(run_compiled(recorded, folders, seed, free), recorded.was)
        judged = found
        if free.otherwise and recorded.was.tensors:
            judged = found["same_choices"] = _held(recorded, folders, seed)
    except CaptureError as error:
        raise VerificationError(f"with the compiled parts {error.text}") from error
    if judged["outputs"]:
        check_loss(judged["outputs"], limit, WHOLE)
    return found


def _held(recorded: RecordedRun, folders: Mapping[str, Path], seed: int) -> dict[str, Any]:
    """What the run returns with the decisions that were recorded.

    A part answers as the original did only where the run comes further by that.

    Raises:
        CaptureError: it cannot be held to these.
    """

    def tried(answers: tuple[str, ...]) -> tuple[int, StrayedError | dict[str, Any]]:
        held = Choices(held=True, answers=frozenset(answers))
        try:
            made = run_compiled(recorded, folders, seed, held)
        except StrayedError as error:
            return held.calls, error
        found = compare_results(made, recorded.was)
        counted = {"calls": held.calls, "chosen_otherwise": held.otherwise}
        return held.calls, {**found, **counted, "answers_of_the_original": list(answers)}

    answers: tuple[str, ...] = ()
    reached, found = tried(answers)
    while isinstance(found, StrayedError):
        for name in (name for name in found.before if name not in answers):
            further, other = tried((*answers, name))
            if further > reached or not isinstance(other, StrayedError):
                answers, reached, found = (*answers, name), further, other
                break
        else:
            raise found
    return found

"""A model that a function of the caller's runs: recorded, compiled by parts, run with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import wraps
from typing import Any

import torch
from torch import nn

from awqc.bundle.parts import Bundle
from awqc.data.calibration import HELD_OUT, CalibrationData
from awqc.errors import (
    AwqcError,
    CaptureError,
    Note,
    UsageError,
    VerificationError,
    spelled,
)
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.calls import bind
from awqc.recording.entries import EntryPoint, find_entries, modules_of
from awqc.recording.instead import method_instead
from awqc.recording.outermost import OutsideCall, record_entries
from awqc.recording.structures import leaves, rebuilt
from awqc.runtimes.loading import load
from awqc.verify.limits import check_loss
from awqc.whole.compiling import (
    REACHES,
    CompiledBundle,
    check_exclude,
    check_whole,
    compile_parts,
)
from awqc.whole.recorded_parts import (
    REPEATED,
    Naming,
    RecordedPart,
    capture_part,
    usual_names,
    wires,
)
from awqc.whole.results import Results, compare_results
from awqc.whole.seeded import seeded

Run = Callable[[Any], object]
"""Runs a model, given as its argument, on some samples; what it returns is compared."""
MOST_CALLS, MOST_JUDGED = 64, 8
"""Calls of a part that it is calibrated on, and judged by, at most."""
NOT_LOADED = ("weights", "adapter", "layout", "task", "trust_remote_code", "seq_len")
"""Options that say how other models and their data are loaded, and how their folders look."""
OF_THE_WHOLE = ("inputs", "dynamic", "task", "trust_remote_code", "num_samples", "seq_len", "part")


def compile_run(
    model: Any,
    run: Run,
    options: Options,
    given: Mapping[str, Any],
    notify: Callable[[Note], object],
    naming: Naming = usual_names,
) -> tuple[CompiledBundle, tuple[RecordedPart, ...]]:
    """Compile what ``run`` calls of ``model``, and run it again with what was compiled.

    The modules that ``run`` calls from outside of all modules become parts; their calls, all but
    the last ones, are what they are calibrated on. ``given`` are ``options`` as they were given.

    Raises:
        UsageError: ``model`` has no modules, or ``run`` calls none; an option is not for it.
        CaptureError: ``run`` fails, or a part cannot be captured.
        VerificationError: a part or the whole is not the model that was asked for.
    """
    check_whole(options, NOT_LOADED)
    modules = modules_of(model)
    if not modules:
        raise UsageError(
            f"run: the model is a {type(model).__name__}, which has no torch module among its "
            "attributes; give an nn.Module, or an object that holds some, such as a pipeline"
        )
    with stage("run the model …"):
        entries, was = _entries(model, modules, run, options)
        calls, again = _recorded(model, modules, entries, run, options.seed)
    _check_repeats(was, again)
    with stage("capture …"):
        parts = tuple(_captured(modules, entries, calls, options, naming))
    bundle = Bundle({part.name: part.program for part in parts})
    check_exclude(bundle, options)
    for part in parts:
        for text in _told(part):
            notify(Note(f"{part.name}: {text}"))
    own = {name: value for name, value in given.items() if name not in OF_THE_WHOLE}
    result = compile_parts(bundle, {part.name: _data(part) for part in parts}, own, notify)
    result.report = {
        "model": type(model).__name__,
        **result.report,
        "wiring": [asdict(wire) for wire in wires(parts)],
        "calls": {part.name: len(part.calls) for part in parts},
    }
    if any(name in options.formats for name in ("onnx", "ort")):
        with stage("run what was compiled …"):
            result.report["run"] = _measure(model, modules, parts, result, run, was, options)
    return result, parts


def own_modules(model: Any) -> Any:
    """``model`` with copies of its modules, which a compile may take over."""
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    made = copy.copy(model)
    for name, value in list(getattr(model, "__dict__", {}).items()):
        if isinstance(value, nn.Module):
            setattr(made, name, copy.deepcopy(value))
    return made


def _entries(
    model: Any, modules: Mapping[str, nn.Module], run: Run, options: Options
) -> tuple[list[EntryPoint], Results]:
    """What becomes parts, and what the run returned."""
    returned: list[object] = []
    with _blamed(model), seeded(options.seed):
        found = find_entries(modules, lambda: returned.append(run(model)))
    if options.part:
        found = [_entry(modules, path) for path in options.part.values()]
    if not found:
        raise UsageError(
            f"run: calls no module of {type(model).__name__}, so there is nothing to compile; "
            "call the model that is its argument"
        )
    return found, Results.of(returned[0])


def _entry(modules: Mapping[str, nn.Module], path: str) -> EntryPoint:
    """The module at ``path``, or the method of one."""
    if path in modules:
        return EntryPoint(path)
    before, _, method = path.rpartition(".")
    if before in modules and callable(getattr(modules[before], method, None)):
        return EntryPoint(before, method)
    near = ", ".join(name for name in modules if name and name.count(".") == path.count("."))
    raise UsageError(
        f"{spelled('part')}: the model has no module {path}; at that depth it has {near or 'none'}"
    )


def _recorded(
    model: Any, modules: Mapping[str, nn.Module], entries: Sequence[EntryPoint], run: Run, seed: int
) -> tuple[list[OutsideCall], Results]:
    returned: list[object] = []
    with _blamed(model), seeded(seed):
        calls = record_entries(modules, entries, lambda: returned.append(run(model)))
    return calls, Results.of(returned[0])


def _check_repeats(was: Results, again: Results) -> None:
    """Refuse a run that returns something else the second time.

    Raises:
        CaptureError: it does.
    """
    found = compare_results(again, was)
    moved = any(gap["rel"] > REPEATED for gap in found["outputs"].values())
    if moved or found["of_another_size"] or found.get("same") != found.get("texts"):
        raise CaptureError(
            "run: returns something else when it is called again, with the same seeds of torch, "
            "NumPy and Python: it keeps a state, or draws from a generator of its own; make it "
            "anew in each call of run"
        )


@contextmanager
def _blamed(model: Any) -> Iterator[None]:
    """Say that it was ``run`` that failed.

    Raises:
        CaptureError: it does.
    """
    try:
        yield
    except AwqcError:
        raise
    except Exception as error:
        raise CaptureError(
            f"run: fails on {type(model).__name__}: {type(error).__name__}: {error}"
        ) from error


def _captured(
    modules: Mapping[str, nn.Module],
    entries: Sequence[EntryPoint],
    calls: Sequence[OutsideCall],
    options: Options,
    naming: Naming,
) -> Iterator[RecordedPart]:
    wanted: list[str | None] = list(options.part or ()) or [None] * len(entries)
    for asked, entry in zip(wanted, entries, strict=True):
        own = [call for call in calls if (call.path, call.method) == entry]
        name = asked or str(entry) or "model"
        if len(own) < 2:
            raise CaptureError(
                f"{name}: {entry or 'the model'} is called {len(own)} times while run runs; two "
                "calls are needed at least, of which one is held back: let run take more samples, "
                "and name no part inside of another one"
            )
        module = modules[entry.path]
        if not any(value.ndim > 1 for value in module.parameters()):
            if options.part:
                raise UsageError(f"{spelled('part')}: {entry} has no weights to quantize")
            continue
        names = naming(entry, own[0].before, own[0].result)
        names = replace(names, part=asked or names.part)
        try:
            yield capture_part(names, entry, module, own)
        except CaptureError as error:
            raise CaptureError(
                f"{error.text}. To leave {entry} as it is, name the other parts ({spelled('part')})"
            ) from error


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


def _data(part: RecordedPart) -> CalibrationData:
    """Calls to calibrate on, and the last ones to judge by, each spread over all."""
    batches = part.batches()
    kept = max(1, round(HELD_OUT * len(batches)))
    return CalibrationData(
        tuple(_spread(batches[:-kept], MOST_CALLS)),
        tuple(_spread(batches[-kept:], MOST_JUDGED)),
        REACHES,
    )


def _spread(batches: Sequence[Any], most: int) -> list[Any]:
    """At most so many of ``batches``, at equal distances."""
    count = min(most, len(batches))
    return [batches[place * len(batches) // count] for place in range(count)]


def _measure(
    model: Any,
    modules: Mapping[str, nn.Module],
    parts: Sequence[RecordedPart],
    compiled: CompiledBundle,
    run: Run,
    was: Results,
    options: Options,
) -> dict[str, Any]:
    """What the run returns with the compiled parts in place, against what it returned before.

    Raises:
        VerificationError: it fails, or has moved by more than ``max_loss``.
    """
    returned: list[object] = []
    try:
        with _blamed(model), parts_instead(modules, parts, compiled), seeded(options.seed):
            with torch.no_grad():
                returned.append(run(model))
            found = compare_results(Results.of(returned[0]), was)
    except CaptureError as error:
        raise VerificationError(
            f"with the compiled parts {error.text}. Nothing was written; please report it"
        ) from error
    if found["outputs"]:
        try:
            check_loss(found["outputs"], options.max_loss, "the whole, run with its parts compiled")
        except VerificationError as error:
            raise VerificationError(f"{error.text}. Nothing was written") from error
    return found


@contextmanager
def parts_instead(
    modules: Mapping[str, nn.Module], parts: Sequence[RecordedPart], compiled: CompiledBundle
) -> Iterator[None]:
    """Let calls of ``parts`` go to their compiled models in onnxruntime."""
    with ExitStack() as stack:
        for part in parts:
            module = modules[part.entry.path]
            method = _compiled(part, getattr(module, part.entry.method), compiled)
            stack.enter_context(method_instead(module, part.entry.method, method))
        yield


def _compiled(
    part: RecordedPart, own: Callable[..., Any], compiled: CompiledBundle
) -> Callable[..., Any]:
    session = load(compiled.parts[part.name].folder, "cpu")
    answer = part.calls[0].answer

    @wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        taken = leaves(bind(own, args, kwargs))
        if missing := [path for path in part.inputs if path not in taken]:
            raise CaptureError(f"{part.name}: is called without {missing[0]}")
        batch = {name: taken[path].detach().contiguous() for path, name in part.inputs.items()}
        made = dict(zip(session.outputs, session.run(batch), strict=True))
        return rebuilt(answer, {path: made[name] for path, name in part.outputs.items()})

    return method

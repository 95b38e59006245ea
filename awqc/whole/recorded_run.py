"""A model that a function of the caller's runs: what it calls, and a run with others instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn

from awqc.errors import AwqcError, CaptureError, UsageError, spelled
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.calls import bind
from awqc.recording.entries import EntryPoint, find_entries, modules_of
from awqc.recording.instead import method_instead
from awqc.recording.outermost import OutsideCall, record_entries
from awqc.recording.structures import leaves, rebuilt
from awqc.runtimes.loading import load
from awqc.whole.compiling import check_whole
from awqc.whole.recorded_parts import (
    REPEATED,
    Naming,
    RecordedPart,
    calls_by_form,
    capture_part,
    form_of,
    usual_names,
)
from awqc.whole.results import Results, compare_results
from awqc.whole.seeded import seeded

Run = Callable[[Any], object]
"""Runs a model, given as its argument, on some samples; what it returns is compared."""
NOT_LOADED = ("weights", "adapter", "layout", "task", "trust_remote_code", "seq_len")
"""Options that say how other models and their data are loaded, and how their folders look."""


@dataclass(frozen=True)
class RecordedRun:
    """What a run of a model shows of it.

    Attributes:
        model: whose modules are called.
        run: what runs it.
        modules: by path.
        parts: found in what was called, and captured.
        was: what the run returned.
    """

    model: Any
    run: Run
    modules: Mapping[str, nn.Module]
    parts: tuple[RecordedPart, ...]
    was: Results


def record_run(model: Any, run: Run, options: Options, naming: Naming = usual_names) -> RecordedRun:
    """The parts that ``run`` calls, captured.

    Raises:
        UsageError: ``model`` has no modules, or ``run`` calls none; an option is not for it.
        CaptureError: ``run`` fails, or a part cannot be captured.
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
    return RecordedRun(model, run, modules, parts, was)


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
        usual = naming(entry, own[0].before, own[0].result).part
        for part, some in calls_by_form(asked or usual, own).items():
            names = replace(naming(entry, some[0].before, some[0].result), part=part)
            try:
                yield capture_part(names, entry, module, some)
            except CaptureError as error:
                raise CaptureError(
                    f"{error.text}. To leave {entry} as it is, name the other parts "
                    f"({spelled('part')})"
                ) from error


def run_compiled(recorded: RecordedRun, folders: Mapping[str, Path], seed: int) -> Results:
    """What the run returns with the parts in ``folders`` in the places of its own.

    Raises:
        CaptureError: it fails.
    """
    model, parts = recorded.model, recorded.parts
    instead = parts_instead(recorded.modules, parts, folders)
    with _blamed(model), instead, seeded(seed), torch.no_grad():
        return Results.of(recorded.run(model))


@contextmanager
def parts_instead(
    modules: Mapping[str, nn.Module], parts: Sequence[RecordedPart], folders: Mapping[str, Path]
) -> Iterator[None]:
    """Let calls of ``parts`` go to the models in their ``folders`` in onnxruntime."""
    by_entry: dict[EntryPoint, list[RecordedPart]] = {}
    for part in parts:
        by_entry.setdefault(part.entry, []).append(part)
    with ExitStack() as stack:
        for entry, forms in by_entry.items():
            module = modules[entry.path]
            method = _compiled(forms, getattr(module, entry.method), folders)
            stack.enter_context(method_instead(module, entry.method, method))
        yield


def _compiled(
    forms: Sequence[RecordedPart], own: Callable[..., Any], folders: Mapping[str, Path]
) -> Callable[..., Any]:
    """The method of which ``forms`` are the parts, with models in their place."""
    sessions = {part.name: load(folders[part.name], "cpu") for part in forms}
    known = {form_of(part.calls[0].before): part for part in forms}

    @wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        taken = leaves(bind(own, args, kwargs))
        part = forms[0] if len(forms) == 1 else known.get(form_of(taken))
        if part is None:
            raise CaptureError(
                f"{forms[0].name}: is called with {', '.join(taken) or 'no tensor'}, as it was not "
                "while it was recorded"
            )
        if missing := [path for path in part.inputs if path not in taken]:
            raise CaptureError(f"{part.name}: is called without {missing[0]}")
        session = sessions[part.name]
        batch = {name: taken[path].detach().contiguous() for path, name in part.inputs.items()}
        made = dict(zip(session.outputs, session.run(batch), strict=True))
        answer = part.calls[0].answer
        return rebuilt(answer, {path: made[name] for path, name in part.outputs.items()})

    return method

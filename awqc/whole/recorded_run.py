"""A model that a function of the caller's runs: what it calls, and a run with others instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.errors import AwqcError, CaptureError, UsageError, spelled
from awqc.machine.progress import stage
from awqc.options import Options
from awqc.recording.calls import bind_given
from awqc.recording.entries import EntryPoint, find_entries, modules_of
from awqc.recording.forms import form_of, telling_numbers
from awqc.recording.instead import method_instead
from awqc.recording.outermost import OutsideCall, record_entries
from awqc.recording.structures import leaves, rebuilt
from awqc.runtimes.loading import load
from awqc.whole.captured_parts import CapturedParts
from awqc.whole.compiling import check_whole
from awqc.whole.held_choices import Choices
from awqc.whole.recorded_parts import REPEATED, Naming, RecordedPart, usual_names
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
        opened: by the name of an entry that is no graph the reason; what it calls are parts.
        around: by path the tensors of what runs beside the parts, once it was run with these.
    """

    model: Any
    run: Run
    modules: Mapping[str, nn.Module]
    parts: tuple[RecordedPart, ...]
    was: Results
    opened: Mapping[str, str] = field(default_factory=dict)
    around: Mapping[str, Tensor] = field(default_factory=dict)


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
    captured = CapturedParts(modules, options, naming)
    parts = None
    while parts is None:
        with stage("run the model …"):
            entries, was = _entries(model, modules, run, options, captured.opened)
            calls, again = _recorded(model, modules, entries, run, options.seed)
        _check_repeats(was, again)
        with stage("capture …"):
            parts = captured.take(entries, calls)
    reasons = {str(entry) or "model": error.text for entry, error in captured.opened.items()}
    return RecordedRun(model, run, modules, parts, was, reasons)


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
    model: Any,
    modules: Mapping[str, nn.Module],
    run: Run,
    options: Options,
    opened: Collection[EntryPoint],
) -> tuple[list[EntryPoint], Results]:
    """What becomes parts, and what the run returned."""
    returned: list[object] = []
    with _blamed(model), seeded(options.seed):
        found = find_entries(modules, lambda: returned.append(run(model)), opened)
    if options.part:
        found = [_entry(modules, path) for path in options.part.values()]
    if not found and not opened:
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
    """All calls, and what the run returned; it runs again where tensors of a call were written
    into after it, which are copied then."""
    copied: set[EntryPoint] = set()
    while True:
        returned: list[object] = []
        with _blamed(model), seeded(seed):
            noted = record_entries(modules, entries, lambda: returned.append(run(model)), copied)  # noqa: B023  it is called here
        stale = {EntryPoint(call.path, call.method) for call in noted if not call.intact}
        if not stale:
            return noted, Results.of(returned[0])
        copied |= stale


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


def run_compiled(
    recorded: RecordedRun,
    folders: Mapping[str, Path],
    seed: int,
    choices: Choices | None = None,
) -> Results:
    """What the run returns with the parts in ``folders`` in the places of its own.

    ``choices`` may let the parts be given the whole numbers that they were recorded with.

    Raises:
        CaptureError: it fails.
    """
    model, parts = recorded.model, recorded.parts
    instead = parts_instead(recorded.modules, parts, folders, choices)
    with _blamed(model), instead, seeded(seed), torch.no_grad():
        made = Results.of(recorded.run(model))
    if choices is not None:
        choices.end(parts)
    return made


@contextmanager
def parts_instead(
    modules: Mapping[str, nn.Module],
    parts: Sequence[RecordedPart],
    folders: Mapping[str, Path],
    choices: Choices | None = None,
) -> Iterator[None]:
    """Let calls of ``parts`` go to the models in their ``folders`` in onnxruntime."""
    followed = choices or Choices()
    by_entry: dict[EntryPoint, list[RecordedPart]] = {}
    for part in parts:
        by_entry.setdefault(part.entry, []).append(part)
    with ExitStack() as stack:
        for entry, forms in by_entry.items():
            module = modules[entry.path]
            method = _compiled(forms, getattr(module, entry.method), folders, followed)
            stack.enter_context(method_instead(module, entry.method, method))
        yield


def _compiled(
    forms: Sequence[RecordedPart],
    own: Callable[..., Any],
    folders: Mapping[str, Path],
    choices: Choices,
) -> Callable[..., Any]:
    """The method of which ``forms`` are the parts, with models in their place."""
    sessions = {part.name: load(folders[part.name], "cpu") for part in forms}
    telling = telling_numbers([call for part in forms for call in part.calls[:1]])
    known = {form_of(part.calls[0].arguments, telling): part for part in forms}

    @wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        given = bind_given(own, args, kwargs)
        taken = leaves(given)
        part = forms[0] if len(forms) == 1 else known.get(form_of(given, telling))
        if part is None:
            raise CaptureError(
                f"{forms[0].name}: is called with {', '.join(taken) or 'no tensor'}, as it was not "
                "while it was recorded"
            )
        if missing := [path for path in part.inputs if path not in taken]:
            raise CaptureError(f"{part.name}: is called without {missing[0]}")
        session = sessions[part.name]
        batch = {name: taken[path].detach().contiguous() for path, name in part.inputs.items()}
        made = dict(zip(session.outputs, session.run(choices.given(part, batch)), strict=True))
        found = {path: made[name] for path, name in part.outputs.items()}
        return rebuilt(part.calls[0].answer, choices.made(part, found))

    return method

"""`compile_bundle`: every part compiled on what reaches it, and the whole verified end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.names import BUNDLE_REPORT, MODEL, TUNED
from awqc.artifacts.publish import staging
from awqc.artifacts.scratch import ScratchFolder
from awqc.artifacts.work_folder import work_folder_beside
from awqc.bundle.parts import Bundle, Runner, Trace
from awqc.compiler import Compiled, compile_graph
from awqc.data.calibration import HELD_OUT, CalibrationData
from awqc.errors import Note, UsageError, VerificationError, spelled
from awqc.export.layouts import FolderLayout
from awqc.machine.process import undisturbed
from awqc.numerics.name_patterns import check_fits
from awqc.options import Options, parse_options
from awqc.options.declare import takes
from awqc.passes.part_patterns import patterns_within
from awqc.program import Batch
from awqc.runtimes.loading import load
from awqc.verify.gaps import Gaps
from awqc.verify.limits import check_loss

FORMATS = ("onnx", "ort", "pt2")
OF_ONE_GRAPH = ("inputs", "dynamic", "recipe", "stats")
"""Options that say something of one graph."""
ENOUGH, FEWEST = 4096, 3
"""Tokens or patches of which more tell a part little, and batches at least."""
REACHES = "what reaches this part"
JUDGED, FEWEST_JUDGED = 2048, 2
"""As many are enough to verify a part on, and batches at least; the whole is on all."""


@dataclass
class CompiledBundle:
    """The compiled parts of a model, and how they belong together.

    Attributes:
        bundle: the float model that they were made of.
        parts: by name.
        report: of each part, of what they share, and of the whole.
        held_out: batches that were held back, the last ones.
        files: the folder as it is to be written; None: one of folders of the parts.
        used: files and folders that the compile read.
        layout: how the folder is arranged.
    """

    bundle: Bundle
    parts: dict[str, Compiled]
    report: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0
    files: ScratchFolder | None = field(default=None, repr=False)
    used: tuple[Path, ...] = field(default=(), repr=False)
    layout: FolderLayout = field(default=FolderLayout(), repr=False)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs of the whole in onnxruntime, for one batch of the bundle's inputs."""
        return self.bundle.run(batch, {name: _in_onnx(part) for name, part in self.parts.items()})

    def save(self, output_dir: str | Path) -> Path:
        """Write a folder for each part and ``bundle.json``, or `files`, at once or not at all.

        Raises:
            UsageError: the folder holds something that awqc did not write.
            ExportError: it cannot be written.
        """
        target = Path(output_dir)
        with staging(target, self.used) as folder:
            if self.files is not None:
                copy_tree(self.files.path, folder)
                self.layout.apply(folder)
                return target
            for name, part in self.parts.items():
                copy_tree(part.folder, folder / name)
            text = json.dumps(self.report, indent=2, allow_nan=False)
            (folder / BUNDLE_REPORT).write_text(text + "\n", encoding="utf-8")
        return target


@takes(Options)
@undisturbed()
def compile_bundle(
    bundle: Bundle,
    calib: Iterable[Mapping[str, Tensor]],
    *,
    output_dir: str | Path | None = None,
    **options: Any,
) -> CompiledBundle:
    """Quantize every part of ``bundle``, export it, and verify parts and whole.

    Each part is calibrated on what really reaches it when the float model runs. A matrix that
    several parts hold takes no scale and is rounded to nearest, so that it has the same codes in
    each. The whole is run in onnxruntime on batches held back, part after part.

    Args:
        bundle: the model; it is not changed.
        calib: batches of the bundle's `inputs`; two at least, of which a fifth is held back.
        output_dir: where to write; None: nowhere, see `CompiledBundle.save`.

    Raises:
        UsageError: an argument is wrong.
        VerificationError: a part, or the whole, is not what was asked for; nothing is written.
    """
    check_exclude(bundle, parse_options(**options))
    target = None if output_dir is None else Path(output_dir)
    traces = [bundle.trace(dict(batch)) for batch in calib]
    with ExitStack() as hold:
        result = compile_traced(bundle, traces, kept_beside(target, options), hold=hold)
        if target is not None:
            result.save(target)
    return result


def compile_traced(
    bundle: Bundle,
    traces: Sequence[Trace],
    options: Mapping[str, Any],
    notify: Callable[[Note], object] = lambda note: None,
    hold: ExitStack | None = None,
) -> CompiledBundle:
    """As `compile_bundle`, on what the parts were seen to read and make.

    ``notify`` is called with each note on a part, behind the part's name. What is finished of
    each is kept until ``hold`` ends well; None: until the part is.
    """
    chosen = parse_options(**options)
    if len(traces) < 2:
        raise UsageError(
            f"{spelled('calib')} has {len(traces)} batches; give two at least: one is held back"
        )
    kept = held_back(len(traces))
    result = compile_parts(bundle, data_of_parts(bundle, traces), options, notify, hold)
    result.held_out = kept
    if all(map(_has_onnx, result.parts.values())):
        runners = {name: _in_onnx(part) for name, part in result.parts.items()}
        found = measure_whole(bundle, runners, traces[-kept:])
        try:
            check_whole_loss(bundle, found, chosen.max_loss)
        except VerificationError as error:
            raise VerificationError(f"{error.text}. Nothing was written") from error
        result.report["verify"] = found
    else:
        result.report["verify"] = {}
    return result


def held_back(count: int) -> int:
    """How many of so many samples or calls are kept for verification: the last ones."""
    return max(1, round(HELD_OUT * count))


def data_of_parts(bundle: Bundle, traces: Sequence[Trace]) -> dict[str, CalibrationData]:
    """What each part is calibrated on and judged by, of what it was seen to read."""
    kept = held_back(len(traces))
    data: dict[str, CalibrationData] = {}
    for name, program in bundle.parts.items():
        read = [seen[name] for seen, _ in traces]
        output = f"{name}.{program.outputs[0]}"
        enough = _enough(output, traces[:-kept], ENOUGH, FEWEST)
        judged = _enough(output, traces[-kept:], JUDGED, FEWEST_JUDGED)
        data[name] = CalibrationData(
            tuple(read[:-kept][:enough]), tuple(read[-kept:][:judged]), REACHES
        )
    return data


def compile_parts(
    bundle: Bundle,
    data: Mapping[str, CalibrationData],
    options: Mapping[str, Any],
    notify: Callable[[Note], object] = lambda note: None,
    hold: ExitStack | None = None,
) -> CompiledBundle:
    """Every part of ``bundle`` compiled on its ``data``; the whole is not run.

    ``notify`` is called with each note on a part, behind the part's name. What is finished of
    each is kept until ``hold`` ends well; None: until the part is.
    """
    chosen = parse_options(**options)
    shared = bundle.shared()
    result = CompiledBundle(bundle, {})
    for name, program in bundle.parts.items():
        own = replace(program.clone(), shared=shared[name])
        exclude = patterns_within(chosen.exclude, own, name)
        other = {"exclude": exclude, "work_dir": _work_dir(chosen, name)}
        told = partial(_tell, notify, name)
        result.parts[name] = compile_graph(
            own, calib=data[name], notify=told, hold=hold, **{**options, **other}
        )
    result.report = {
        "parts": {name: part.report for name, part in result.parts.items()},
        "wiring": [asdict(wire) for wire in bundle.wiring],
        "shared": {part: names for part, names in shared.items() if names},
    }
    return result


def _enough(output: str, traces: Sequence[Trace], enough: int, fewest: int) -> int:
    """How many of ``traces`` have ``enough`` tokens or patches in ``output`` of a part.

    They are ``fewest`` at least; all, where they have less.
    """
    rows = 0
    for count, (_, made) in enumerate(traces, 1):
        value = made[output]
        heads = value.shape[1] if value.ndim == 4 else 1
        rows += value.numel() // max(1, heads * value.shape[-1])
        if rows >= enough and count >= fewest:
            return count
    return len(traces)


def _tell(notify: Callable[[Note], object], part: str, note: Note) -> None:
    notify(replace(note, text=f"{part}: {note.text}"))


def check_whole(chosen: Options, besides: Iterable[str] = ()) -> None:
    """Refuse what is for models of one graph, and the options ``besides``, before any work.

    Raises:
        UsageError: something of that was asked for.
    """
    if other := [name for name in chosen.formats if name not in FORMATS]:
        raise UsageError(
            f"the format {other[0]} is for models of one graph; one of several is written as "
            f"{', '.join(FORMATS)} ({spelled('formats')})"
        )
    usual = Options()
    for name in (*OF_ONE_GRAPH, *besides):
        if getattr(chosen, name) != getattr(usual, name):
            raise UsageError(
                f"{spelled(name)} does not apply: the model is several graphs, and what each reads "
                "is recorded while it runs; leave it out"
            )


def check_exclude(bundle: Bundle, chosen: Options) -> None:
    """Refuse patterns that leave out no weight of any part.

    Raises:
        UsageError: there is one.
    """
    names = [f"{part}.{name}" for part, own in bundle.parts.items() for name in own.parameters()]
    check_fits(chosen.exclude, names, "the bundle")


def kept_beside(target: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with a place beside ``target`` for what is finished, unless they name one."""
    if target is None or options.get("work_dir") is not None:
        return dict(options)
    return {**options, "work_dir": work_folder_beside(target)}


def _work_dir(options: Options, part: str) -> str | None:
    """Where the work on ``part`` is kept: beside the folder that was given, since each has one."""
    return None if options.work_dir is None else f"{options.work_dir}-{part}"


def measure_whole(
    bundle: Bundle, runners: Mapping[str, Runner], traces: Sequence[Trace]
) -> dict[str, Any]:
    """How far each output of the whole is from the float model's, parts in the wiring."""
    gaps = Gaps()
    for read, reference in traces:
        batch = {f"{part}.{name}": x for part, own in read.items() for name, x in own.items()}
        for name, value in bundle.run(batch, runners).items():
            gaps.add(name, value, reference[name])
    found: dict[str, Any] = gaps.loss()["outputs"]
    return found


def check_whole_loss(bundle: Bundle, found: Mapping[str, Any], limit: float) -> None:
    """Refuse what `measure_whole` found.

    Raises:
        VerificationError: an output that leaves the whole is not finite, or moved by more than
            ``limit``; what goes to other parts and to later calls is judged by what comes of it.
    """
    inside = {wire.source for wire in bundle.wiring}
    for name, program in bundle.parts.items():
        inside |= {f"{name}.{output}" for output in program.scaled_outputs()}
    leaving = {name: gap for name, gap in found.items() if name not in inside}
    check_loss(leaving or found, limit, "the whole, run part after part")


def _has_onnx(part: Compiled) -> bool:
    return any((part.folder / name).is_file() for name in (MODEL, f"{TUNED}/{MODEL}"))


def _in_onnx(part: Compiled) -> Runner:
    session = load(part.folder, "cpu")
    return lambda batch: dict(zip(session.outputs, session.run(batch), strict=True))

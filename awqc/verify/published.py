"""Open each file that is to be published as its user would, in a process without awqc.

The numbers are measured in this process (`awqc.verify.verification`); here is one question more
for each file: does it open and compute the same where there is nothing but the file?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from awqc.artifacts.names import ARCHIVE, GGUF, MODEL, TUNED
from awqc.artifacts.scratch import scratch_folder
from awqc.errors import VerificationError
from awqc.export.formats import SERVING
from awqc.export.towers import Tower, towers_of
from awqc.graph.choices import EQUAL, Choices, chosen_again
from awqc.kv_cache import PLACES
from awqc.machine.memory import give_back
from awqc.program import Batch, Program
from awqc.runtimes.onnxruntime import EXACT
from awqc.runtimes.row_by_row import parts_of
from awqc.runtimes.session_file import metadata_of
from awqc.runtimes.session_settings import ACCURACY_LEVEL
from awqc.runtimes.torch_values import to_numpy
from awqc.verify.choosing import choosing_as
from awqc.verify.counted import as_counted
from awqc.verify.fresh import FRESH
from awqc.verify.fresh_job import DoesNotRunError, ask, fresh_job
from awqc.verify.gaps import Gaps
from awqc.verify.limits import check_near
from awqc.verify.measuring import gaps_of, gather
from awqc.verify.published_gguf import check_gguf
from awqc.verify.published_weights import check_checkpoint
from awqc.verify.trials import Trial
from awqc.verify.verification import Verification

BATCHES = 2
INT8_MAY_MOVE = (2.0, 0.05)
"""Onnxruntime's own form rounds activations to int8: how many times what was measured in this
process an output may differ, and how much it may differ in any case, relative to its variation."""

Array = NDArray[Any]
Outputs = Iterable[Sequence[Tensor]]
Made = Iterable[tuple[Sequence[Tensor], Choices]]
"""Of each batch the outputs, and what was chosen by values, where the runtime says it."""


def warm_up(formats: Sequence[str]) -> None:
    """Let the process import what ``formats`` need, while this one works."""
    needed = {"onnxruntime": {"onnx", "ort"}, "torch": {"pt2"}}
    FRESH.warm(tuple(module for module, forms in needed.items() if forms & set(formats)))


def check_published(
    judged: Program,
    final: Program,
    batches: Sequence[Batch],
    folder: Path,
    verification: Verification,
    trials: Sequence[Trial] = (),
) -> None:
    """Open every form in ``folder``.

    Args:
        judged: the quantized program that ONNX forms were written from.
        final: the one that the archive was written from.
        batches: of which a few are run; each program takes them in its own dtype.
        folder: the output folder.
        verification: what was measured in this process.
        trials: other sizes, of which the archive is run at a few; ONNX forms were at all.

    Raises:
        VerificationError: a file does not open or run by itself, or gives something else.
    """
    give_back()  # the other process opens each file as large as this one did
    few = batches[:BATCHES]
    if (folder / ARCHIVE).is_file():
        _check_run(final, few, folder / ARCHIVE, ARCHIVE, _run_torch)
        _check_sizes(final, trials, folder / ARCHIVE)
    if (folder / MODEL).is_file():
        _check_run(judged, few, folder / MODEL, MODEL, _exact_onnx)
    if (folder / TUNED / MODEL).is_file():
        found = verification.find("onnxruntime", "ort")
        measured = None if found is None else found.default["outputs"]
        _check_run(judged, few, folder / TUNED / MODEL, f"{TUNED}/{MODEL}", _own_onnx, measured)
    check_towers(judged, few, folder, verification)
    for name in SERVING:
        if (folder / name).is_dir():
            check_checkpoint(final, folder / name, name)
    if (folder / GGUF).is_file():
        check_gguf(judged, few, folder / GGUF)


def _check_sizes(program: Program, trials: Sequence[Trial], archive: Path) -> None:
    """Run ``archive`` at the smallest and the largest of other sizes.

    Where it refuses them nothing wrong comes out: it is told, and no failure.
    """
    ordered = sorted(
        (trial for trial in trials if trial.promised),
        key=lambda trial: sum(value.numel() for value in trial.batch.values()),
    )
    for trial in (*ordered[:1], *ordered[1:][-1:]):
        try:
            _check_run(program, [trial.batch], archive, f"{ARCHIVE} with {trial.where}", _run_torch)
        except DoesNotRunError as error:
            program.tell(
                f"{ARCHIVE} does not take {trial.where}, which the other forms do: {error.reason}"
            )


def check_towers(
    judged: Program, batches: Sequence[Batch], folder: Path, verification: Verification
) -> None:
    """Open the towers of the models in ``folder``; arguments as of `check_published`.

    Raises:
        VerificationError: one is missing, does not open or run by itself, or gives something else.
    """
    towers = towers_of(judged)
    found = verification.find("onnxruntime", "ort")
    measured = None if found is None else found.default["outputs"]
    for place in (Path(), Path(TUNED)):
        if not (folder / place / MODEL).is_file():
            continue
        run, rel = (_own_onnx, measured) if place.parts else (_exact_onnx, None)
        for tower in towers:
            shown = (place / tower.file).as_posix()
            if not (folder / shown).is_file():
                raise VerificationError(
                    f"{folder}: {shown} is missing, which the compile wrote beside {MODEL}; "
                    "compile again"
                )
            _check_run(judged, batches[:BATCHES], folder / shown, shown, run, rel, tower)


def _check_run(
    program: Program,
    batches: Sequence[Batch],
    file: Path,
    shown: str,
    run: Callable[[Program, Sequence[Batch], Path, Path], Made],
    measured: dict[str, Any] | None = None,
    tower: Tower | None = None,
) -> None:
    """Compare what ``run`` gets out of ``file``, the whole or a ``tower``, with ``program``."""
    given = [
        {spec.name: batch[spec.name].to(spec.dtype) for spec in program.inputs} for batch in batches
    ]
    names = program.outputs if tower is None else tower.outputs
    if run is _own_onnx and metadata_of(file).get(PLACES) == "1":
        given = [as_counted(batch) for batch in given]
    taken = given if tower is None else [{n: each[n] for n in tower.inputs} for each in given]
    form = f"{shown}, opened by itself in another process,"
    with scratch_folder() as scratch:
        made = run(program, taken, file, scratch)
        gaps = gaps_of(program)
        again = choosing_as(program, file, "onnx") if run is _exact_onnx and tower is None else None
        for batch, (outputs, choices) in zip(given, made, strict=True):
            if len(outputs) != len(names):
                raise VerificationError(
                    f"{program.name}: {form} gives {len(outputs)} outputs, the quantized model "
                    f"{len(names)}; please report it"
                )
            with chosen_again(choices, EQUAL):
                reference = (again or program.run)(batch)
            whole = dict(zip(program.outputs, reference, strict=True))
            wanted = [whole[name] for name in names]
            gather(program, gaps, outputs, wanted, batch, states=True, names=names)
    if run is _own_onnx:
        _check_int8(gaps, measured, program.name, form)
    else:
        check_near(gaps.distance()["outputs"], program.source_dtype, program.name, form)


def _run_torch(program: Program, batches: Sequence[Batch], file: Path, scratch: Path) -> Made:
    """In torch alone, which says what it chose."""
    job = fresh_job("torch", file, scratch, "pt")
    torch.save([[batch[spec.name] for spec in program.inputs] for batch in batches], job["inputs"])
    ask(job, program.name, file.name)
    made = torch.load(job["outputs"], weights_only=True)
    return ((each["outputs"], tuple(each["choices"])) for each in made)


def _exact_onnx(program: Program, batches: Sequence[Batch], file: Path, scratch: Path) -> Made:
    """In onnxruntime alone, with float32 products."""
    made = _run_onnx(program, batches, file, scratch, {ACCURACY_LEVEL: EXACT})
    return ((outputs, ()) for outputs in made)


def _own_onnx(program: Program, batches: Sequence[Batch], file: Path, scratch: Path) -> Made:
    """In onnxruntime alone, as the model says; row by row where its attention reads batches so."""
    parts = [parts_of(batch) for batch in batches]
    made = iter(_run_onnx(program, [each for some in parts for each in some], file, scratch, {}))
    whole = [list(zip(*(next(made) for _ in some), strict=True)) for some in parts]
    joined = [[each[0] if len(each) == 1 else torch.cat(each) for each in some] for some in whole]
    return ((outputs, ()) for outputs in joined)


def _run_onnx(
    program: Program,
    batches: Sequence[Mapping[str, Tensor]],
    file: Path,
    scratch: Path,
    config: dict[str, str],
) -> Outputs:
    job = fresh_job("onnx", file, scratch, "npz") | {"config": config, "batches": len(batches)}
    arrays = {
        f"{number}.{name}": to_numpy(value)
        for number, batch in enumerate(batches)
        for name, value in batch.items()
    }
    np.savez(job["inputs"], **arrays)
    ask(job, program.name, f"{file.parent.name}/{file.name}" if file.parent.name == TUNED
         else file.name)  # fmt: skip
    with np.load(job["outputs"]) as made:
        count = len(made.files) // len(batches)
        for number in range(len(batches)):
            yield [torch.from_numpy(made[f"{number}.{position}"]) for position in range(count)]


def _check_int8(gaps: Gaps, measured: dict[str, Any] | None, name: str, form: str) -> None:
    """Refuse outputs that int8 activations do not explain."""
    times, least = INT8_MAY_MOVE
    for output, gap in gaps.outputs.items():
        limit = 1.0 if measured is None else max(times * measured[output]["rel"], least)
        if not gap.rel <= limit + gap.rounding:
            raise VerificationError(
                f"{name}: {form} differs from the quantized model in output {output} by "
                f"{gap.rel:.2g}; int8 activations explain {limit:.2g}; please report it"
            )

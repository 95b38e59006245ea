"""One exported form in one runtime, beside the quantized program and the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.machine.memory import give_back, release_behind
from awqc.program import Batch, Program
from awqc.runtimes.base import Kernels, LoadedModel, find_runtime
from awqc.verify.choosing import ChoosingAs, choosing_as
from awqc.verify.counted import behind_padding, counted_pieces, counted_trials, counts_places
from awqc.verify.gaps import Gaps
from awqc.verify.measuring import gaps_of, gather, judge
from awqc.verify.reference import Reference
from awqc.verify.text_pieces import PieceReader
from awqc.verify.text_quality import TextQuality
from awqc.verify.trials import SizeGap, Trial, try_form

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Comparison:
    """What a runtime makes of a form; an entry of ``verify.comparisons`` in report.json.

    Attributes:
        runtime: its name.
        form: the format of the file that it opened.
        provider: where it ran.
        exact: against the quantized program, computing in float32: the difference is rounding,
            or else the exporter is wrong.
        default: against the quantized program, in a session that sets nothing: what the
            runtime's own arithmetic adds.
        original: the same session against the original; None where there is none to compare.
        kernels: how that session computes with quantized weights.
        text: perplexity, KL divergence and top-1 agreement of a language model, ``exact`` and
            ``default``.
        sizes: against the quantized program, computing in float32, at other sizes.

    The first three hold the numbers of the ``worst`` output, and those of each in ``outputs``.
    """

    runtime: str
    form: str
    provider: str
    exact: dict[str, Any]
    default: dict[str, Any]
    original: dict[str, Any] | None
    kernels: Kernels
    text: dict[str, Any] | None
    sizes: tuple[SizeGap, ...] = ()


@dataclass(frozen=True)
class ExportedForm:
    """An exported form, and the runtime that runs it.

    Attributes:
        runtime: its name.
        format: of the file.
        file: what was exported.
        view: the model, opened, as one of the program's inputs and outputs; None: it is that.
    """

    runtime: str
    format: str
    file: Path
    view: Callable[[LoadedModel], LoadedModel] | None = None

    def __str__(self) -> str:
        return f"the {self.format} form in {self.runtime}"

    def opened(self, *, exact: bool, provider: str) -> LoadedModel:
        """Open the file, see `awqc.runtimes.base.Runtime.open_model`."""
        model = find_runtime(self.runtime).open_model(self.file, exact=exact, provider=provider)
        return model if self.view is None else self.view(model)


def forms_of(folder: Path, runtimes: Sequence[str]) -> list[ExportedForm]:
    """The forms in ``folder`` that ``runtimes`` run."""
    return [
        ExportedForm(runtime, form, file)
        for runtime in runtimes
        for form, file in forms_in(folder, runtime).items()
    ]


def forms_in(folder: Path, runtime: str) -> dict[str, Path]:
    """The files in ``folder`` that ``runtime`` opens, by format."""
    files = {form: folder / file for form, file in find_runtime(runtime).FORMS.items()}
    return {form: file for form, file in files.items() if file.is_file()}


def compare(
    program: Program,
    reference: Reference,
    quantized: Sequence[Outputs],
    form: ExportedForm,
    provider: str,
    trials: Sequence[Trial] = (),
) -> Comparison:
    """Run ``form`` on the reference's batches, exactly and by default, one after the other.

    Args:
        program: the quantized program.
        reference: the batches, and the original's outputs.
        quantized: the program's outputs for each batch.
        form: what was exported, and what opens it.
        provider: where to run.
        trials: batches at other sizes, and the program's outputs for each.

    Raises:
        VerificationError: the runtime does not load or run the file.
    """

    held = sum(tensor.nbytes for tensor in program.parameters().values())

    def opened(exact: bool) -> LoadedModel:
        release_behind(held)  # graphs that were run are cycles: 120 MB on SmolLM2-135M
        give_back()
        return form.opened(exact=exact, provider=provider)

    def try_exactly(model: LoadedModel) -> tuple[_Measured, tuple[SizeGap, ...]]:
        again = None if form.view is not None else choosing_as(program, form.file, form.format)
        found = _measure(program, reference, quantized, model, again)
        run, counted = partial(_run, model), counts_places(program, model)
        given = counted_trials(program, trials) if counted else trials
        if again is not None:
            given = [replace(trial, outputs=again(trial.batch)) for trial in given]
        tried = try_form(program, run, str(form), given)
        return found, (*tried, *behind_padding(program, run, again)) if counted else tried

    # The first model is gone before the second is opened: each holds all weights.
    exact, sizes = try_exactly(opened(exact=True))
    model = opened(exact=False)
    default = _measure(program, reference, quantized, model)
    texts = {"exact": exact.text, "default": default.text}
    return Comparison(
        runtime=form.runtime,
        form=form.format,
        provider=model.provider,
        exact=exact.near.distance(),
        default=default.near.distance(),
        original=default.original.loss(),
        kernels=model.kernels(),
        text={key: text.as_dict() for key, text in texts.items() if text.tokens} or None,
        sizes=sizes,
    )


@dataclass(frozen=True)
class _Measured:
    """How far a model is from the quantized program, ``near``, and from the original."""

    near: Gaps
    original: Gaps
    text: TextQuality


def _measure(
    program: Program,
    reference: Reference,
    quantized: Sequence[Outputs],
    model: LoadedModel,
    again: ChoosingAs | None = None,
) -> _Measured:
    found = _Measured(gaps_of(program), gaps_of(program), TextQuality())
    read, pieces = PieceReader(program, partial(_run, model)), reference.pieces
    if counts_places(program, model):
        pieces, quantized = counted_pieces(program, pieces, quantized)
    for piece, wanted, near in zip(pieces, reference.outputs, quantized, strict=True):
        outputs, batch = read(piece), piece.batch
        same = near if again is None else again(batch)
        gather(program, found.near, outputs, same, batch, states=True)
        gather(program, found.original, outputs, wanted, batch, states=False)
        judge(program, found.text, outputs, batch, wanted)
        give_back()
    return found


def _run(model: LoadedModel, batch: Batch) -> Outputs:
    return model.run(fed(model, batch))


def fed(model: LoadedModel, batch: Batch) -> Batch:
    """What ``model`` takes of ``batch``; floating values in the dtype that it takes."""
    given = {spec.name: spec for spec in model.inputs if spec.name in batch}
    return {
        name: batch[name].to(spec.dtype) if spec.dtype.is_floating_point else batch[name]
        for name, spec in given.items()
    }

"""The original, the quantized and the exported model, in numbers.

Three questions, each with its meaning: is the exporter right (an exported form, computed
exactly, against quantized: rounding only)? What will a session give that sets nothing (the
same with the runtime's own arithmetic)? What did quantization cost (quantized against original)?
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.artifacts.names import TUNED
from awqc.graph.choices import chosen_again
from awqc.machine.memory import give_back
from awqc.program import Program
from awqc.runtimes.base import DEFAULT_RUNTIMES
from awqc.verify.comparison import Comparison, ExportedForm, compare, forms_of
from awqc.verify.gaps import Gaps
from awqc.verify.measuring import gaps_of, gather, judge
from awqc.verify.notes import notes_on
from awqc.verify.reference import Reference, waiting_outputs
from awqc.verify.steps import step_trials
from awqc.verify.text_pieces import PieceReader
from awqc.verify.text_quality import TextQuality
from awqc.verify.trials import Trial, quantized_trials

CHOSEN = "scores of top-k"
"""What is measured of a choice, beside the outputs."""


@dataclass(frozen=True)
class Verification:
    """What was measured; the keys of ``verify`` in report.json.

    Attributes:
        original: quantized against original, the numbers of the ``worst`` output and those of
            each in ``outputs``; None where there is none to compare.
        comparisons: each exported form in each runtime.
        batches: held-out batches that were compared.
        text: perplexity, KL divergence and top-1 agreement of a language model, ``original``
            and ``quantized``.
        notes: what the user should know.
        ort: what the form that is onnxruntime's own holds, as
            `awqc.export.ort_report.describe_ort` tells.
    """

    original: dict[str, Any] | None
    comparisons: tuple[Comparison, ...]
    batches: int
    text: dict[str, Any] | None
    notes: list[str]
    ort: dict[str, Any] | None = None

    def find(self, runtime: str, form: str) -> Comparison | None:
        """The comparison of ``form`` in ``runtime``."""
        pairs = {(found.runtime, found.form): found for found in self.comparisons}
        return pairs.get((runtime, form))

    def of_exports(self) -> Verification:
        """Without what compares with the original: it was not there."""
        quantized = {key: value for key, value in (self.text or {}).items() if key != "original"}
        return replace(
            self,
            original=None,
            comparisons=tuple(replace(found, original=None) for found in self.comparisons),
            text=quantized or None,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def verify(
    program: Program,
    reference: Reference,
    folder: Path | None,
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    provider: str = "auto",
    trials: Sequence[Trial] = (),
) -> Verification:
    """Measure all gaps on the reference's batches.

    Args:
        program: the quantized program.
        reference: the original's outputs.
        folder: where the exported forms lie; None: there are none.
        runtimes: each runs the forms that it can.
        provider: where they run: ``auto``, ``cuda`` or ``cpu``.
        trials: what the original gives at other sizes.

    Raises:
        UsageError: a runtime is unknown or does not work here.
        VerificationError: a runtime does not load or run a form, or something fails at other
            sizes.
    """
    forms = [] if folder is None else forms_of(folder, runtimes)
    return verify_forms(program, reference, forms, provider, trials)


def verify_forms(
    program: Program,
    reference: Reference,
    forms: Sequence[ExportedForm],
    provider: str = "auto",
    trials: Sequence[Trial] = (),
) -> Verification:
    """As `verify`, with ``forms`` that may lie anywhere."""
    cost, texts = gaps_of(program), {"original": TextQuality(), "quantized": TextQuality()}
    quantized = tuple(_quantized(program, reference, cost, texts))
    near = (
        *quantized_trials(program, trials, cost.rel),
        *step_trials(program, "the quantized model"),
    )
    comparisons = tuple(
        compare(program, reference, quantized, form, provider, near) for form in forms
    )
    return Verification(
        original=cost.loss(),
        comparisons=comparisons,
        batches=reference.count,
        text={name: text.as_dict() for name, text in texts.items() if text.tokens} or None,
        notes=list(notes_on(cost, comparisons)),
        ort=_ort(forms),
    )


def _quantized(
    program: Program, reference: Reference, cost: Gaps, texts: dict[str, TextQuality]
) -> Iterator[tuple[Tensor, ...]]:
    """What ``program`` gives for each piece; ``cost`` and ``texts`` take in what it has lost.

    What it lost behind a choice is what it gives if it chooses as the original did, and how much
    worse the scores are that it takes then.
    """
    waiting, read = waiting_outputs(), PieceReader(program, program.run)
    read_again = PieceReader(program, program.run)
    for number, (piece, wanted) in enumerate(zip(reference.pieces, reference.outputs, strict=True)):
        outputs, batch = read(piece), piece.batch
        with chosen_again(reference.choices[number], math.inf) as chosen:
            compared = read_again(piece) if reference.choices[number] else outputs
        gather(program, cost, compared, wanted, batch, states=False)
        for place, scores in enumerate(chosen.scores, 1):
            cost.add_chosen(f"{CHOSEN} {place}", *scores)
        judge(program, texts["original"], wanted, batch, None)
        judge(program, texts["quantized"], outputs, batch, wanted)
        yield waiting.keep(outputs)
        give_back()


def _ort(forms: Sequence[ExportedForm]) -> dict[str, Any] | None:
    file = next((form.file for form in forms if form.format == TUNED), None)
    if file is None:
        return None
    from awqc.export.ort_report import describe_ort

    return describe_ort(file)

"""The pass ``quantize-weights``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from awqc.artifacts.names import ARCHIVE
from awqc.artifacts.recipe_codes import CODES_FILE, read_codes, weight_of_codes
from awqc.executor.run import NO_DATA, Run
from awqc.findings import NO_FACTS, Fact, Facts, WeightError
from awqc.graph.linears import find_linears
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.request import QuantizationSpec
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import decide
from awqc.weights.jobs import (
    Job,
    QuantizedWeights,
    find_jobs,
    round_to_nearest,
    run_job,
)
from awqc.weights.rounding_error import measure
from awqc.weights.rounding_proof import prove_rounding
from awqc.weights.sequential import round_in_sequence
from awqc.weights.stored import store

LARGE = 2**24
PLAIN = QuantizationSpec()


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Replace each weight by codes, scales and zero points, and a call that dequantizes them.

        before:  linear(x, W)
        after:   linear(x, dequantize(W.packed, W.scale, W.zero_point))

    Embedding tables get 8 bits and a scale a row, and so does a head that shares its table.
    Options: those of the request, which the search reads too: ``bits``, ``group-size``,
    ``symmetric``, ``exclude``, ``head-bits`` and ``embed-bits`` (0: left in float),
    ``weight-format`` for what has a place in it. ``rounding`` is ``nearest``
    or ``gptq`` (each column's error is compensated by the next ones), ``clip`` searches the
    ranges of groups, ``sweeps`` of coordinate descent improve codes and scales; these three
    need the grams of calibration, and round to nearest what calibration did not see.
    ``sequential`` takes these grams anew, for each weight from what the part of the model before it
    gives once it is quantized: one more pass over the calibration batches, all of them held at
    once. ``keep-float`` keeps what tune-scales needs of the float model.
    ``codes`` is a folder whose codes are taken instead (see `awqc.artifacts.recipe_codes`).
    Refuses: weights that something else reads as well, and depthwise convolutions.
    Proves: no row is much further from the float one than the nearest values of its grid.
    Source: GPTQ, arXiv 2210.17323, in the scaled space.
    """

    spec: QuantizationSpec = PLAIN
    sequential: bool = False
    keep_float: bool = False
    codes: str = field(
        default="",
        metadata={
            "local": True,
            "files": lambda folder: (folder / ARCHIVE, folder / CODES_FILE),
        },
    )
    name: ClassVar[str] = "quantize-weights"
    keeps_output: ClassVar[bool] = False
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.CODES, Fact.HALF})

    @property
    def needs(self) -> Facts:
        """Moments, where codes depend on them."""
        learns = self.spec.learns and not self.codes
        return frozenset({Fact.STATISTICS, Fact.MOMENTS}) if learns else NO_FACTS

    @property
    def gives(self) -> Facts:
        """A teacher only where one is kept."""
        return frozenset({Fact.CODES, Fact.TEACHER} if self.keep_float else {Fact.CODES})

    def needs_teacher(self, program: Program) -> bool:
        """Whether there will be something for tune-scales to do after this pass."""
        formats = decide(program, self.spec).formats if self.keep_float else {}
        return not all(each.fine for each in formats.values())

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Quantize every weight that is not refused."""
        decisions = decide(program, self.spec)
        codes: QuantizedWeights = {}
        errors: dict[str, WeightError] = {}
        changes = [Change(name, why, refused=True) for name, why in decisions.refused.items()]
        reads = {str(n.target): n for n in program.graph.nodes if n.op == "get_attr"}
        for name, made, error in self._quantize(program, run, decisions.formats):
            quantized = made.with_tensors(run.keep(dict(made.tensors)))
            codes[name], errors[name] = quantized, error
            store(program, reads[name], quantized)
            why = decisions.fallbacks.get(name)
            changes.append(Change(name, str(quantized.format) + (f", since {why}" if why else "")))
        for why, count in Counter(decisions.fallbacks.values()).items():
            program.tell(f"{count} weights are not in {self.spec.weight_format}: {why}")
        found = program.findings
        program.learn(
            quantized={**found.quantized, **codes},
            errors={**found.errors, **errors},
            skipped={**found.skipped, **decisions.refused},
            # Nothing that follows rounds anew, and moments are large.
            statistics={k: replace(each, gram=None) for k, each in found.statistics.items()},
        )
        return changes

    def _quantize(
        self, program: Program, run: Run, formats: Mapping[str, WeightFormat]
    ) -> Iterator[tuple[str, QuantizedWeight, WeightError]]:
        """Every weight with what became of it and what that costs, as they are made."""
        codes = read_codes(Path(self.codes)) if self.codes else None
        jobs = find_jobs(program, formats) if self.spec.learns and codes is None else []
        joined = {linear.weight_name for job in jobs for linear in job.linears}
        linears = {linear.weight_name: linear for linear in find_linears(program.graph)}
        rest = [name for name in formats if name not in joined]
        ranks = _ranks(program, formats)

        def measured(
            made: QuantizedWeights, proved: bool = False
        ) -> list[tuple[str, QuantizedWeight, WeightError]]:
            if codes is None and not proved:  # Those of a recipe may be tuned, and are no rounding.
                for name, quantized in made.items():
                    prove_rounding(program, name, linears.get(name), quantized, run.device)
            return [
                (name, quantized, measure(program, name, linears.get(name), quantized, run.device))
                for name, quantized in made.items()
            ]

        def nearest_of(name: str) -> QuantizedWeight:
            return round_to_nearest(program, name, formats[name], run.device, self.spec.clip)

        def quantize(item: Job | str) -> list[tuple[str, QuantizedWeight, WeightError]]:
            if isinstance(item, Job):
                return measured(run_job(program, item, item.gram(program, run.device), self.spec))
            how = formats[item]
            if codes is None:
                return measured({item: nearest_of(item)})
            return measured({item: weight_of_codes(codes, item, program.weight(item), how)})

        if self.sequential and jobs:
            nearest = {name: nearest_of(name) for name in rest}
            in_turn = round_in_sequence(program, run, jobs, nearest, self.spec)
            for name in sorted(in_turn | nearest, key=ranks.__getitem__):
                proved = name in in_turn
                yield from measured({name: (in_turn if proved else nearest)[name]}, proved)
            return
        items: list[Job | str] = [*jobs, *rest]
        items.sort(
            key=lambda item: ranks[item.linears[0].weight_name if isinstance(item, Job) else item]
        )
        for results in run.each(quantize, items, "quantize weights"):
            yield from results


def _ranks(program: Program, formats: Mapping[str, WeightFormat]) -> dict[str, tuple[int, ...]]:
    """The order of weights, whatever rounds them: that of the graph, readers of a value together.

    Large ones come last: by then the others' float values are gone.
    """
    places = {name: index for index, name in enumerate(formats)}
    leaders: dict[object, int] = {}
    ranks: dict[str, int] = {}
    for linear in find_linears(program.graph):
        name = linear.weight_name
        if name in places:
            leader = leaders.setdefault((linear.observed, formats[name]), places[name])
            ranks.setdefault(name, leader)
    return {
        name: (int(program.weight(name).numel() >= LARGE), ranks.get(name, index), index)
        for name, index in places.items()
    }

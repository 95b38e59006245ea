"""The width of a language model's head, by what it loses and what it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from awqc.export.onnx_codes import fusable_block
from awqc.graph.linears import Linear, find_linears
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.formats.int_grid import IntGrid
from awqc.numerics.quantizing import fake_quantize
from awqc.numerics.request import Cut
from awqc.passes.pipeline import Pipeline
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.untie_head import UntieHead
from awqc.program import Program
from awqc.runtimes.product_speed import seconds_of_product
from awqc.targets.base import Target
from awqc.verify.reference import Reference, in_dtypes
from awqc.weights.decisions import decide, head_weights
from awqc.weights.tuning.objective import divergence

NARROW, WIDE = 4, 8
"""The widths of which one is chosen."""
WORTH = 0.2
"""KL divergence, in nats, that a whole step would be worth. What 4 bits for all other weights
cost is of that order: 0.07 for a quarter to a half of a step."""


@dataclass(frozen=True)
class HeadChoice:
    """The width of a head.

    Attributes:
        width: in bits, that was chosen.
        reason: in words.
        untied: whether the head is its embedding's table, and gets codes of its own for that width.
    """

    width: int
    reason: str
    untied: bool = False

    def taken_by(self, pipeline: Pipeline) -> Pipeline:
        """``pipeline`` with that width."""
        found = pipeline.with_head_bits(self.width)
        return found.with_untied_head() if self.untied else found


def choose_head(
    program: Program,
    pipeline: Pipeline,
    reference: Reference,
    target: Target,
    untie: bool = False,
) -> HeadChoice:
    """Whether 4 bits for the head of the float ``program`` save more time than they lose.

    Lost is KL divergence from the float logits, on the batches held back, with the head alone
    rounded to nearest: compensated it loses less. Saved are seconds of a step's products, one
    token, measured in onnxruntime on this machine's CPU. A head that is its embedding's table keeps
    that one's 8 bits, but with ``untie``: then codes of its own are weighed likewise, and the
    reason tells what they take.
    """
    steps = [each for each in pipeline.passes if isinstance(each, QuantizeWeights)]
    if not steps:
        return HeadChoice(WIDE, "nothing is quantized")
    spec = steps[0].spec
    untied = []
    if untie:
        program = program.variant()
        untied = UntieHead().apply(program)
        program.tidy()
    decisions = decide(program, spec)
    heads = head_weights(program)
    linears = {each.weight_name: each for each in find_linears(program.graph)}
    open_ = [linears[name] for name in sorted(heads & set(decisions.formats) - decisions.tables)]
    if not open_:
        return HeadChoice(WIDE, "there is no head with a width of its own")
    forms = {
        bits: [spec.format_of(each.columns, head=True, cut=Cut(bits)) for each in open_]
        for bits in (NARROW, WIDE)
    }
    if not all(isinstance(form, IntGrid) for each in forms.values() for form in each):
        return HeadChoice(WIDE, "its format was asked for by name")
    lost = {bits: _lost(program, reference, open_, forms[bits]) for bits in forms}
    rest = _seconds(
        ((each, decisions.formats[name]) for name, each in linears.items()
         if name in decisions.formats and each not in open_), target,
    )  # fmt: skip
    took = {bits: _seconds(zip(open_, forms[bits], strict=True), target) for bits in forms}
    saved = 1 - (rest + took[NARROW]) / (rest + took[WIDE])
    worse = lost[NARROW] - lost[WIDE]
    bits = NARROW if worse <= WORTH * saved else WIDE
    reason = (
        f"{NARROW} in place of {WIDE} would add {worse:.4f} to the KL divergence and save "
        f"{saved:.0%} of the time that a token's products take"
    )
    own = bool(untied) and bits == NARROW
    if own:
        sizes = zip(forms[bits], open_, strict=True)
        more = sum(
            form.nbytes(each.rows, each.columns, program.scale_dtype) for form, each in sizes
        )
        reason += f"; beside the table that it is, it takes {more / 1e6:.1f} MB more"
    return HeadChoice(bits, reason, own)


def _lost(
    program: Program, reference: Reference, heads: list[Linear], forms: list[WeightFormat]
) -> float:
    """Mean KL divergence of the logits of ``program`` with ``heads`` rounded alone."""
    rounded = program.variant()
    for head, form in zip(heads, forms, strict=True):
        weight = program.weight(head.weight_name)
        cut = fake_quantize(weight.float(), form, program.scale_dtype)
        rounded.set_weight(head.weight_name, cut.to(weight.dtype))
    places = [program.outputs.index(name) for name in program.head_outputs]
    total, rows = 0.0, 0
    for piece, wanted in zip(reference.pieces, reference.outputs, strict=True):
        if piece.continues:
            continue
        with torch.no_grad():
            made = rounded.run(in_dtypes(rounded, piece.batch))
        for place in places:
            now, then = (each[place].float().flatten(0, -2) for each in (made, wanted))
            total += float(divergence(now, then))
            rows += len(now)
    return total / max(rows, 1)


def _seconds(products: Iterable[tuple[Linear, WeightFormat]], target: Target) -> float:
    """What a token takes in ``products``, those of a size measured once."""
    sizes: Counter[tuple[int, int, int, int]] = Counter()
    for linear, form in products:
        if isinstance(form, IntGrid) and linear.pointwise:
            group = form.group_size
            block = target.row_block(linear.columns) if group == -1 else fusable_block(group)
            if block in target.block_sizes:
                sizes[linear.rows, linear.columns, form.storage_bits, block] += 1
    level = target.accuracy_level
    return sum(seconds_of_product(*size, level) * count for size, count in sizes.items())

"""The pass ``canonicalize``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.passes.base import Change, Pass
from awqc.passes.canonical.aliases import order_arguments, unify_names
from awqc.passes.canonical.bags import write_out_bags
from awqc.passes.canonical.batch_norm import fold_batch_norms
from awqc.passes.canonical.complex_pairs import complex_to_pairs
from awqc.passes.canonical.composites import take_apart
from awqc.passes.canonical.constants import fold_constants, merge_reads
from awqc.passes.canonical.einsum import einsum_to_matmul
from awqc.passes.canonical.equations import write_out_einsums
from awqc.passes.canonical.experts import count_by_comparing, unstack_products
from awqc.passes.canonical.noise import drop_asserts, drop_no_ops
from awqc.passes.canonical.norms import give_norms_weights
from awqc.passes.canonical.own_kernels import unfold_own_kernels
from awqc.passes.canonical.picked import unstack_picked
from awqc.passes.canonical.products import products_to_linear
from awqc.passes.canonical.separate import separate_rows
from awqc.program import Program


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Make the graph small and regular, so that the other passes stay simple.

        before:  addmm(b, x, t(W)),  x @ P,  einsum("bsd,dh->bsh", x, P),  1 + w,  dropout(x)
        after:   linear(x, W, b),    linear(x, P'),  linear(x, P'),        w',     x

    Drops what does nothing in inference (asserts, dropout, casts to the same dtype),
    computes expressions of constant tensors once, folds batch norms into the convolutions
    before them, gives norms without a weight one of ones, and writes each product of an
    activation with a tensor of the program as ``linear``, stacks of matrices one by one, also
    where an index picks them, einsums of activations as matrix products, bags of embeddings as
    lookups, complex numbers as pairs of real ones, and composite operations, such as recurrent
    cells, as what they are made of.
    Keeps: float outputs, to rounding.
    """

    name: ClassVar[str] = "canonicalize"
    keeps_output: ClassVar[bool] = True
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.SITES, Fact.CODES, Fact.HALF})
    """Findings speak of nodes by names, which this pass changes."""

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Run the rewrites in order."""
        changes: list[Change] = []
        for rewrite in (
            drop_asserts,
            unify_names,
            order_arguments,
            merge_reads,
            drop_no_ops,
            complex_to_pairs,
            write_out_bags,
            unfold_own_kernels,
            write_out_einsums,
            fold_constants,
            products_to_linear,
            unstack_picked,
            einsum_to_matmul,
            take_apart,
            fold_constants,
            products_to_linear,
            unstack_products,
            separate_rows,
            count_by_comparing,
            fold_batch_norms,
            give_norms_weights,
        ):
            made = rewrite(program)
            if made:
                program.tidy()
            changes += made
        return changes

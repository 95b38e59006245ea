"""The last piece of a language model in slices of rows: its logits are never whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from awqc.graph.nodes import results_of
from awqc.graph.row_masks import by_row
from awqc.machine.devices import moved
from awqc.program import Batch, Program
from awqc.weights.tuning.objective import counting, divergence

ELEMENTS = 2**23
"""Logits of one model that are computed at once."""


@dataclass(frozen=True)
class Rows:
    """How the last piece of a program is run in slices of rows.

    Attributes:
        program: whose outputs are logits, all of them.
        sliced: for each value that the piece reads, whether it has the rows of the outputs.
        at_once: rows in a slice.
    """

    program: Program
    sliced: tuple[bool, ...]
    at_once: int

    @classmethod
    def of(cls, program: Program, graph: Graph, reads: int) -> Rows | None:
        """For the last piece of ``program``, the first ``reads`` of whose inputs are values.

        None where it cannot be run so: an output is no logits, or depends on other rows than
        its own as far as the graph tells.
        """
        results = results_of(graph)
        if not results or not set(program.outputs) <= set(program.head_outputs):
            return None
        found = _by_rows(graph, reads, results)
        widths = [node.meta["val"].shape[-1] for node in results]
        if found is None or not all(isinstance(width, int) for width in widths):
            return None
        return cls(program, found, max(1, ELEMENTS // max(1, *widths)))

    def slices(self, batch: Batch, values: Sequence[Any]) -> Iterator[tuple[Tensor, int]]:
        """Numbers of the rows that count, a slice at a time, and how many these are in all."""
        first = next(v for v, cut in zip(values, self.sliced, strict=True) if cut)
        shape, device = first.shape, first.device
        mask = counting(self.program, batch, shape)
        rows = torch.arange(shape[:-1].numel()).reshape(shape[:-1])
        chosen = rows.flatten() if mask is None else rows[mask].flatten()
        for part in moved(chosen, device).split(self.at_once):
            yield part, max(len(chosen), 1)

    def pick(self, values: Sequence[Any], part: Tensor) -> list[Any]:
        """``values`` with the rows ``part`` alone, as ``(1, …, 1, rows, columns)``."""
        return [
            _flat(value).index_select(-2, part) if cut else value
            for value, cut in zip(values, self.sliced, strict=True)
        ]


def sum_divergence(now: Sequence[Tensor], then: Sequence[Tensor]) -> Tensor:
    """Of logits ``(1, …, 1, rows, vocabulary)``, over rows and outputs."""
    parts = [divergence(a.flatten(0, -2), b.flatten(0, -2)) for a, b in zip(now, then, strict=True)]
    return torch.stack(parts).sum()


def _flat(value: Tensor) -> Tensor:
    return value.reshape(*[1] * (value.ndim - 2), -1, value.shape[-1])


def _by_rows(graph: Graph, reads: int, results: Sequence[Node]) -> tuple[bool, ...] | None:
    """Which of the first ``reads`` inputs have the rows of ``results``, if that is all there is.

    Each value then is one row for each row of the results, and depends on nothing but the same
    row of these inputs; or it has no rows.
    """
    lead = _rows_of(results[0])
    if lead is None or any(_rows_of(node) != lead for node in results):
        return None
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    with_rows = {node for node in inputs[:reads] if _rows_of(node) == lead}
    for node in graph.nodes:
        read = [each for each in node.all_input_nodes if each in with_rows]
        if node.op not in ("call_function", "call_module", "call_method") or not read:
            continue
        if not all(by_row(node, each) for each in read):
            return None
        others = [each for each in node.all_input_nodes if each not in with_rows]
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) and not all(
            _fits_any_row(each) for each in others
        ):
            return None
        with_rows.add(node)
    found = tuple(node in with_rows for node in inputs[:reads])
    return found if with_rows.issuperset(results) else None


def _rows_of(node: Node) -> str | None:
    """The axes of a tensor but the last; symbolic sizes by their names."""
    value = node.meta.get("val")
    return str(value.shape[:-1]) if isinstance(value, Tensor) and value.ndim > 1 else None


def _fits_any_row(node: Node) -> bool:
    """Whether the value has no rows: combined with one that has, it is the same for all of them."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return True
    return value.ndim < 2 or all(size == 1 for size in value.shape[:-1])

"""Which scales a network could absorb, found by numbers alone, without any rule.

Multiply every tensor ``P`` of a network by ``exp(r_i + c_j + …)``, a factor along each axis. The
directions ``(r, c, …)`` in which no output moves are the null space of a Jacobian: every legal
fold is among them. For a product with weight ``W``, what these directions do to ``W``'s columns
(up to a factor that all share, which its rows undo) is what could be absorbed there; the
channel-flow analysis should have found that many independent scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from awqc.data.calibration import synthetic
from awqc.graph.linears import Linear, find_linears
from awqc.graph.sites import Site
from awqc.program import Program

TOLERANCE = 1e-9
"""Of the largest singular value; a norm's epsilon, which a scale just misses, lies above it."""

STRENGTHS = (1.0, 0.25)
"""What products' weights are multiplied by, in turn: an activation that large values never bend
looks linear, and bends when they are small. A legal fold is one whatever the weights are."""

FEWEST_BATCHES = 8
SUMS_AT_ONCE = 64

Shape = tuple[int, ...]
Freedom = tuple[str, Shape, Shape]
"""A tensor's name, a view of it, and the shape of a factor for that view."""


@dataclass(frozen=True)
class Absorbable:
    """Independent scales of a product's input channels, beyond a factor that a block shares.

    Attributes:
        weight: its name.
        found: how many the analysis found.
        possible: how many the numbers allow.
    """

    weight: str
    found: int
    possible: int


class Probe:
    """The directions in which no output of a program moves.

    The program should be canonical and in float64.
    """

    def __init__(self, program: Program, seed: int = 0) -> None:
        self._program = program
        self._freedoms = _freedoms(program)
        self._sizes = [math.prod(shape) for _, _, shape in self._freedoms]
        self._products = {linear.weight_name for linear in find_linears(program.graph)}
        jacobian = self._jacobian(seed)
        self._live = jacobian.norm(dim=0) > TOLERANCE * jacobian.norm()
        self._null = _null_space(jacobian)

    def compare(self, sites: tuple[Site, ...] | list[Site]) -> list[Absorbable]:
        """What the analysis found against what is possible, for every site's first product."""
        linears = {linear.node.name: linear for linear in find_linears(self._program.graph)}
        compared = []
        for site in sites:
            linear = linears[site.readers[0].node]
            reader = site.readers[0]
            found = torch.zeros(max(site.scales, 1), linear.channels, dtype=torch.float64)
            scaled = reader.classes >= 0
            if site.scales:
                found[reader.classes[scaled].long(), scaled.nonzero().flatten()] = 1
            live, possible = self._directions(linear)
            ranks = [_rank(rows * live, linear.blocks) for rows in (found, possible)]
            compared.append(Absorbable(linear.weight_name, *ranks))
        return compared

    def _directions(self, linear: Linear) -> tuple[Tensor, Tensor]:
        """Which input channels of ``linear`` matter, and what they may do: ``(ways, channels)``."""
        start = 0
        columns = _product_freedoms(linear)[1]
        for freedom in self._freedoms:
            size = math.prod(freedom[2])
            if freedom == columns:
                break
            start += size
        part = slice(start, start + linear.channels)
        return self._live[part], self._null[:, part]

    def _jacobian(self, seed: int) -> Tensor:
        """Change of random sums of a batch's outputs for each freedom: ``(sums, freedoms)``.

        There are about twice as many sums as freedoms: no direction is free by chance.
        """
        theta = torch.zeros(sum(self._sizes), dtype=torch.float64, requires_grad=True)
        generator = torch.Generator().manual_seed(seed)
        first = synthetic(self._program, 1, seed).batches[0]
        size = sum(x.numel() for x in self._program.run(first) if x.is_floating_point())
        batches = max(FEWEST_BATCHES, -(-2 * theta.numel() // size))
        sums = min(size, -(-2 * theta.numel() // batches))
        rows: list[torch.Tensor] = []
        for index in range(batches):
            (batch,) = synthetic(self._program, 1, seed + index).batches
            outputs = self._outputs(theta, dict(batch), STRENGTHS[index % len(STRENGTHS)])
            flat = torch.cat([out.reshape(-1) for out in outputs if out.is_floating_point()])
            for begin in range(0, sums, SUMS_AT_ONCE):
                shape = min(SUMS_AT_ONCE, sums - begin), flat.numel()
                mix = torch.randn(shape, generator=generator, dtype=torch.float64)
                rows += torch.autograd.grad(
                    flat, theta, mix, retain_graph=True, is_grads_batched=True
                )
        return torch.cat(rows)

    def _outputs(
        self, theta: Tensor, batch: dict[str, Tensor], strength: float
    ) -> tuple[Tensor, ...]:
        scaled = {name: strength * self._program.weight(name) for name in self._products}
        for freedom, factor in zip(self._freedoms, theta.split(self._sizes), strict=True):
            name, view, shape = freedom
            value = scaled.get(name, self._program.weight(name))
            scaled[name] = (value.reshape(view) * factor.exp().reshape(shape)).reshape(value.shape)
        args = tuple(batch[spec.name] for spec in self._program.inputs)
        made: tuple[Tensor, ...] = torch.func.functional_call(
            self._program.graph_module, scaled, args
        )
        return made


def count_freedoms(program: Program) -> int:
    """How many factors the probe of ``program`` would have: its time grows with their cube."""
    return sum(math.prod(shape) for _, _, shape in _freedoms(program))


def _freedoms(program: Program) -> list[Freedom]:
    """Factors along the axes of every floating tensor that the graph reads.

    Left out: rows of a table that is only looked up, kernels of convolutions, and the
    statistics of batch norms: no site scales along them.
    """
    linears = {linear.weight: linear for linear in find_linears(program.graph)}
    freedoms: list[Freedom] = []
    for node in program.graph.nodes:
        if node.op != "get_attr" or not node.meta["val"].dtype.is_floating_point:
            continue
        if any(_is_statistic(user, node) for user in node.users):
            continue
        name, value = str(node.target), program.weight(str(node.target))
        if node in linears:
            freedoms += _product_freedoms(linears[node])
            continue
        table = all(_looks_up(user, node) for user in node.users)
        for axis in range(1 if table else 0, value.ndim):
            shape = tuple(size if i == axis else 1 for i, size in enumerate(value.shape))
            freedoms.append((name, tuple(value.shape), shape))
    return freedoms


def _product_freedoms(linear: Linear) -> list[Freedom]:
    """A factor for each row of a product's weight, and one for each input channel."""
    rows, inside = linear.rows // linear.blocks, linear.channels // linear.blocks
    view = (linear.blocks, rows, inside, linear.columns // inside)
    return [
        (linear.weight_name, view, (linear.blocks, rows, 1, 1)),
        (linear.weight_name, view, (linear.blocks, 1, inside, 1)),
    ]


def _is_statistic(user: Node, tensor: Node) -> bool:
    """Whether ``tensor`` is the running mean or variance of ``user``, a batch norm."""
    return user.target is torch.ops.aten.batch_norm.default and tensor in user.args[3:5]


def _looks_up(user: Node, table: Node) -> bool:
    return user.target is torch.ops.aten.embedding.default and user.args[0] is table


def _null_space(jacobian: Tensor) -> Tensor:
    """An orthonormal basis: ``(directions, freedoms)``."""
    _, values, rows = torch.linalg.svd(jacobian, full_matrices=True)
    rank = int((values > TOLERANCE * values[0]).sum())
    return torch.as_tensor(rows[rank:])


def _rank(rows: Tensor, blocks: int) -> int:
    """Rank of ``rows`` beyond a factor that all columns of a block share."""
    if rows.numel() == 0:
        return 0
    grouped = rows.reshape(rows.shape[0], blocks, -1)
    centred = grouped - grouped.mean(dim=2, keepdim=True)
    return int((torch.linalg.svdvals(centred.flatten(1)) > 1e-6).sum())

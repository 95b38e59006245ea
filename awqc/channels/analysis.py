"""Find all sites of a program: what may be scaled, what carries the scale, what refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

import awqc.channels.rules  # noqa: F401  registers the rules
from awqc.channels.column_places import column_places
from awqc.channels.flow import Flow
from awqc.channels.labels import PINNED
from awqc.channels.scale_free import neutral_values
from awqc.channels.shapes import Shapes, SizesError, free_splits
from awqc.graph.families import CONVOLUTIONS
from awqc.graph.linears import Linear, find_linears
from awqc.graph.nodes import results_of
from awqc.graph.sites import Reader, Site, both_factors
from awqc.machine.threads import single_threaded
from awqc.program import Program


def find_sites(program: Program, exclude: Callable[[str], bool] = lambda name: False) -> list[Site]:
    """One site for each value that products read, in graph order; each product is in one.

    Products whose weight name ``exclude`` accepts start no site; they still follow one
    that scales what they read.
    """
    with single_threaded():
        return _find(program, exclude)


def _find(program: Program, exclude: Callable[[str], bool]) -> list[Site]:
    linears = find_linears(program.graph)
    analysis = _Analysis(program, linears)
    taken: set[Node] = set()
    names: dict[str, int] = {}
    sites: list[Site] = []
    for linear in linears:
        if linear.node in taken or exclude(linear.weight_name):
            continue
        site, covered = analysis.site(linear, taken)
        count = names[site.name] = names.get(site.name, 0) + 1
        if count > 1:
            site = replace(site, name=f"{site.name}#{count}")
        taken |= covered
        sites.append(site)
    return sites


@dataclass
class _Analysis:
    program: Program
    linears: list[Linear]

    def __post_init__(self) -> None:
        graph = self.program.graph
        self.readers: dict[Node, list[Linear]] = {}
        for linear in self.linears:
            self.readers.setdefault(linear.input, []).append(linear)
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        for spec, node in zip(self.program.inputs, placeholders, strict=True):
            node.meta["input"] = spec.name
        self.states = _state_nodes(self.program, placeholders)
        constants, splits = _integers(self.program), free_splits(graph)
        self.small, self.example = (Shapes(small, constants, splits) for small in (True, False))
        self.neutral = neutral_values(self.program)
        self.columns = column_places(graph)
        self.shared = {**_shared_storage(self.program), **self.program.shared}

    def site(self, seed: Linear, taken: set[Node]) -> tuple[Site, set[Node]]:
        """The site of the value that ``seed`` reads, and the products that it covers."""
        channels, axes = seed.channels, len(seed.kernel)
        mine = [
            reader
            for reader in self.readers[seed.input]
            if reader.node not in taken and len(reader.kernel) == axes
        ]
        name = mine[0].name if mine else seed.name

        def refused(reason: str) -> tuple[Site, set[Node]]:
            readers = tuple(
                Reader(r.node.name, r.weight_name, torch.arange(channels)) for r in mine
            )
            site = Site(name, seed.input.name, readers, channels, 0, {}, "refused", reason)
            return site, {r.node for r in mine}

        if seed.input in self.neutral:
            return refused("it is the same whatever it is scaled by")
        try:
            flow = self._spread(seed)
        except SizesError as error:
            return refused(f"shapes that follow from dynamic axes cannot be worked out ({error})")
        labels = flow.classes.active(torch.arange(channels) + PINNED + 1)
        kept = labels[labels != 0].unique()
        reason = _main_reason(flow)
        if kept.numel() == 0:
            return refused(reason)
        covered = self._covered(flow, kept)
        if not any(_differs(linear, reader) for linear, reader in covered.items()):
            return refused(_tied(flow))
        site = Site(
            name,
            seed.input.name,
            tuple(covered.values()),
            channels,
            int(kept.numel()),
            self._edits(flow, kept),
            "foldable",
            reason,
        )
        return site, {linear.node for linear in covered}

    def _edits(self, flow: Flow, kept: Tensor) -> dict[str, Tensor]:
        """The labels of each tensor to change; of rows and columns in one where both change."""
        edits: dict[str, Tensor] = {}
        for node in sorted(flow.labels, key=flow.owner):
            if node.op == "get_attr" and flow.scaled(node):
                name, labels = str(node.target), _renumber(flow, flow.get(node), kept)
                known = edits.get(name)
                scales = int(kept.numel())
                edits[name] = labels if known is None else both_factors(known, labels, scales)
        return edits

    def _spread(self, seed: Linear) -> Flow:
        """Labels for a scale on each channel of ``seed``'s input, spread over the graph."""
        try:
            return self._spread_with(seed, self.small)
        except SizesError:
            # Small sizes can break what the model assumes of a dynamic axis, for example
            # that it can be split in four; the example's own sizes cannot. The labels are the
            # same: this costs time alone.
            return self._spread_with(seed, self.example)

    def _spread_with(self, seed: Linear, shapes: Shapes) -> Flow:
        """As `_spread`, with ``shapes``.

        Raises:
            SizesError: these do not fit together.
        """
        with shapes.fitting(RuntimeError):
            return self._spread_from(seed, shapes)

    def _spread_from(self, seed: Linear, shapes: Shapes) -> Flow:
        flow = Flow(shapes, self.states, seed.channels, self.neutral, self.columns)
        labels = -(torch.arange(seed.channels) + PINNED + 1)
        scales = -labels

        def finished(current: Flow) -> bool:
            return not bool((current.classes.active(scales) != 0).any())

        rank = len(seed.input.meta["val"].shape)
        axis = rank - 1
        if seed.node.target in CONVOLUTIONS:
            axis = rank - CONVOLUTIONS[seed.node.target] - 1
        flow.assign(seed.input, labels.reshape([-1 if i == axis else 1 for i in range(rank)]))
        flow = flow.settle(finished)
        flow.recheck(finished)
        for node in list(flow.labels):
            if node.op == "get_attr" and str(node.target) in self.shared:
                other = self.shared[str(node.target)]
                flow.pin(node, f"{node.target} is one weight with {other}")
        return flow

    def _covered(self, flow: Flow, kept: Tensor) -> dict[Linear, Reader]:
        """The products whose weight columns undo the scale."""
        covered: dict[Linear, Reader] = {}
        for value in sorted(flow.labels, key=flow.owner):
            if flow.scaled(value):
                for linear in self.readers.get(value, ()):
                    labels = flow.get(value)
                    classes = _renumber(flow, labels, kept).abs() - 1
                    classes = torch.where(classes < kept.numel(), classes, -1)
                    axis = labels.ndim - 1
                    if linear.kernel:
                        axis = labels.ndim - len(linear.kernel) - 1
                    flat = classes.movedim(axis, 0).reshape(classes.shape[axis], -1)[:, 0]
                    covered[linear] = Reader(
                        linear.node.name, linear.weight_name, flat.expand(linear.channels).clone()
                    )
        return covered


def _differs(linear: Linear, reader: Reader) -> bool:
    """Whether input channels that are rounded together get different scales.

    A factor that a whole row of a block shares leaves its rounding as it is.
    """
    classes = reader.classes.reshape(linear.blocks, -1)
    return bool((classes != classes[:, :1]).any())


def _renumber(flow: Flow, labels: Tensor, kept: Tensor) -> Tensor:
    """Labels with the classes in ``kept`` numbered 1 … n, their square roots n + 1 … 2n."""
    indices = labels.abs()
    halves = flow.classes.are_roots(labels)
    indices = torch.where(halves, indices - flow.classes.count, indices)
    numbers = torch.searchsorted(kept, indices.clamp(max=int(kept[-1]))) + 1
    numbers += halves * kept.numel()
    return torch.where(torch.isin(indices, kept), numbers * labels.sign(), 0)


def _main_reason(flow: Flow) -> str:
    """The reason of the pin that fixed most scales."""
    return max(flow.pins, key=lambda pin: pin[0])[1] if flow.pins else ""


def _tied(flow: Flow) -> str:
    """A reason that names the operation that made most scales equal."""
    text = "all its channels must share one scale, which would change nothing"
    return f"{text}: {max(flow.ties, key=lambda tie: tie[0])[1]} ties them" if flow.ties else text


def _state_nodes(program: Program, placeholders: list[Node]) -> dict[Node, Node]:
    """Nodes of carried states, input to output and back."""
    if not program.states:
        return {}
    entering = {spec.name: n for spec, n in zip(program.inputs, placeholders, strict=True)}
    leaving = dict(zip(program.outputs, results_of(program.graph), strict=True))
    pairs = {entering[name]: leaving[other] for name, other in program.states}
    return pairs | {value: key for key, value in pairs.items()}


def _integers(program: Program) -> dict[Node, Tensor]:
    """The integer and boolean tensors that the graph holds."""
    return {
        node: program.weight(str(node.target))
        for node in program.graph.nodes
        if node.op == "get_attr" and not node.meta["val"].dtype.is_floating_point
    }


def _shared_storage(program: Program) -> dict[str, str]:
    """Tensors that overlap another one in memory, with that one's name."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, value in program.parameters().items():
        if value.numel() == 0:
            continue
        place = value.untyped_storage().data_ptr()
        if place in first:
            shared[name] = first[place]
            shared[first[place]] = name
        else:
            first[place] = name
    return shared

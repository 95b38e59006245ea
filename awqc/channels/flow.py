"""Spread labels over the graph until the equations of all operations hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from awqc.channels.labels import ScaleClasses, compress, fit, merge_axes
from awqc.channels.not_homogeneous import NOT_HOMOGENEOUS
from awqc.channels.shapes import Shapes
from awqc.graph.nodes import module_path
from awqc.graph.ops import first_argument, index_of

Rule = Callable[["Flow", Node], None]
RULES: dict[Any, Rule] = {}
MAX_TRIALS = 64
MAX_TRAIL = 4


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a function as the equation of the operations ``targets``."""

    def register(function: Rule) -> Rule:
        for target in targets:
            assert target not in RULES, target
            RULES[target] = function
        return function

    return register


@dataclass(frozen=True)
class Alternative:
    """One way to satisfy an equation: give ``node`` these labels."""

    node: Node
    labels: Tensor


class Flow:
    """The labels of all values reached so far, for the scales of one site.

    Attributes:
        classes: which scales are tied, and which are pinned.
        labels: label tensor by node; a node that is missing is unscaled.
        pins: (number of classes, reason) of each pin, in order.
        ties: (number of scales that became equal to another, operation), in order.
    """

    def __init__(
        self,
        shapes: Shapes,
        states: dict[Node, Node],
        scales: int,
        neutral: frozenset[Node] = frozenset(),
        columns: Mapping[Node, Node] | None = None,
    ) -> None:
        """Start without labels.

        ``states`` maps each carried state, as an input, to the node that leaves through the
        paired output, and back. ``neutral`` values are what any scale makes of them.
        ``columns`` gives weights that can take a scale on their rows and another on their
        columns a second place for labels: those of the columns.
        """
        self.neutral = neutral
        self.columns = columns or {}
        self._owners = {place: weight for weight, place in self.columns.items()}
        self.shapes = shapes
        self.states = states
        self.classes = ScaleClasses(scales)
        self.labels: dict[Node, Tensor] = {}
        self.pins: list[tuple[int, str]] = []
        self.ties: list[tuple[int, str]] = []
        self._came_from: dict[Node, Node | None] = {}
        self._active: dict[Node, tuple[Tensor, int, Tensor]] = {}
        self._queue: dict[Node, None] = {}
        self._choices: dict[Node, None] = {}
        self._current: Node | None = None
        self._trials = 0

    def get(self, node: Any) -> Tensor:
        """Active labels of ``node`` (rank kept); zeros where it is unscaled."""
        if node in self.labels:
            labels, version = self.labels[node], self.classes.version
            known = self._active.get(node)
            if known is None or known[0] is not labels or known[1] != version:
                known = self._active[node] = (labels, version, self.classes.active(labels))
            return known[2]
        return torch.zeros((1,) * len(node.meta["val"].shape), dtype=torch.int64)

    def owner(self, node: Node) -> Node:
        """The weight whose columns' labels stand at ``node``, else ``node``."""
        return self._owners.get(node, node)

    def scaled(self, node: Any) -> bool:
        """Whether any element of ``node`` is scaled."""
        return node in self.labels and bool((self.get(node) != 0).any())

    def assign(self, node: Any, labels: Tensor) -> None:
        """Demand that ``node`` has ``labels``, or what they become where it is broadcast."""
        assert isinstance(node, Node), node
        if self.owner(node) in self.neutral or not bool((labels != 0).any()):
            return
        shape = self.shapes.shape(node)
        labels = fit(self.classes, labels, shape)
        known = self.labels.get(node)
        if known is not None:
            active = self.get(node)
            if labels.shape == active.shape and torch.equal(labels, active):
                return
            labels, known = torch.broadcast_tensors(labels, known)
            self.classes.merge(labels, known)
            labels = torch.where(known != 0, known, labels)
        labels = compress(self.classes.canonical(labels))
        if known is not None and torch.equal(labels, compress(self.classes.canonical(known))):
            return
        self.labels[node] = labels
        self._came_from.setdefault(node, self._current)
        if not node.meta["val"].dtype.is_floating_point:
            self.pin(node, f"{describe(node)} holds {node.meta['val'].dtype}, which has no scale")
        self._touch(node)

    def pin(self, node: Any, reason: str, labels: Tensor | None = None) -> None:
        """Fix all scales on ``node``, or those in ``labels``, at 1 because of ``reason``."""
        if isinstance(node, Node) and node in self.labels:
            count = self.classes.pin(self.labels[node] if labels is None else labels)
            if count:
                self.pins.append((count, reason + self._trail(node)))

    def choose(self, node: Node) -> None:
        """Put ``node``'s equation off: it can be met in several ways, see `alternatives`."""
        self._choices[node] = None

    def settle(self, finished: Callable[[Flow], bool]) -> Flow:
        """Run until all equations hold, trying alternatives; returns the flow with most scales.

        Stops early when ``finished`` says that no scale is left.
        """
        self._drain(finished)
        while self._choices and not finished(self):
            node = next(iter(self._choices))
            del self._choices[node]
            options = ALTERNATIVES[node.target](self, node)
            if not options:
                continue
            chosen = self._try(node, options, finished)
            if chosen is not self:
                return chosen
            self._drain(finished)
        return self

    def recheck(self, finished: Callable[[Flow], bool]) -> None:
        """Check every equation once more until nothing changes: the labels are a solution."""
        while True:
            before = (dict(self.labels), self.classes.copy())
            for node in list(self.labels):
                self._touch(node)
            self._drain(finished)
            assert not self._choices or finished(self)
            if finished(self) or self._same_as(*before):
                return

    def _same_as(self, labels: dict[Node, Tensor], classes: ScaleClasses) -> bool:
        return self.classes.equal(classes) and all(
            torch.equal(self.labels[node], labels.get(node, torch.empty(0))) for node in self.labels
        )

    def _try(
        self, node: Node, options: Sequence[Alternative], finished: Callable[[Flow], bool]
    ) -> Flow:
        """Take the first option that costs nothing, else the one that keeps most scales."""
        if len(options) == 1 or self._trials >= MAX_TRIALS:
            self._take(node, options[0])
            return self
        best: Flow | None = None
        for option in options:
            trial = self._copy()
            trial._take(node, option)
            trial = trial.settle(finished)
            self._trials = trial._trials
            if trial.pinned() == self.pinned():
                return trial
            if best is None or trial.pinned() < best.pinned():
                best = trial
        assert best is not None
        return best

    def pinned(self) -> int:
        """How many classes were pinned so far."""
        return sum(count for count, _ in self.pins)

    def outputs(self, node: Node) -> dict[int, Node]:
        """The tensors that a call makes, by index: itself, or its ``getitem`` users."""
        if isinstance(node.meta.get("val"), list | tuple):
            return {index_of(user): user for user in node.users}
        return {0: node}

    def _take(self, node: Node, option: Alternative) -> None:
        self._current = node
        with self._noting_ties(node):
            self.assign(option.node, option.labels)
        self._queue[node] = None

    def _copy(self) -> Flow:
        other = Flow(self.shapes, self.states, 0, self.neutral, self.columns)
        other.classes = self.classes.copy()
        other.labels = dict(self.labels)
        other.pins, other.ties = list(self.pins), list(self.ties)
        other._came_from = dict(self._came_from)
        other._queue = dict(self._queue)
        other._choices = dict(self._choices)
        other._trials = self._trials + 1
        return other

    def _touch(self, node: Node) -> None:
        """Check the equations of what makes ``node`` and of what reads it."""
        maker = node
        if node.op == "call_function":
            source = first_argument(node)
            if isinstance(source, Node) and isinstance(source.meta.get("val"), list | tuple):
                maker = source
        self._queue[maker] = None
        for user in self.owner(node).users:
            self._queue[user] = None

    def _drain(self, finished: Callable[[Flow], bool]) -> None:
        while self._queue:
            node = next(iter(self._queue))
            del self._queue[node]
            self._current = node
            before, conflicts = len(self.pins), self.classes.conflicts
            with self._noting_ties(node):
                _apply(self, node)
            if self.classes.conflicts > conflicts:
                reason = f"{describe(node)} would need a scale and another power of it in one place"
                self.pins.append((self.classes.conflicts - conflicts, reason))
            if len(self.pins) > before and finished(self):
                return

    @contextmanager
    def _noting_ties(self, node: Node) -> Iterator[None]:
        """Keep in mind how many scales ``node`` makes equal, where it pins none."""
        version, scales, pins = self.classes.version, self.classes.free(), len(self.pins)
        yield
        if self.classes.version != version and len(self.pins) == pins:
            self.ties.append((scales - self.classes.free(), describe(node) + self._trail(node)))

    def _trail(self, node: Node) -> str:
        """How the labels came to ``node``, for a reason."""
        age = {known: index for index, known in enumerate(self.labels)}
        steps: list[Node] = []
        step = self._came_from.get(node)
        while step is not None and step not in steps:
            steps.insert(0, step)
            maker = self._came_from.get(step)
            if maker is step:
                older = [n for n in step.all_input_nodes if age.get(n, age[step]) < age[step]]
                maker = min(older, key=age.__getitem__, default=None)
            step = maker
        names = [_role(s) for s in steps if s.op != "get_attr" and self._came_from.get(s)]
        if len(names) > MAX_TRAIL:
            names = [*names[: MAX_TRAIL - 1], "…", names[-1]]
        return f" (reached through {', '.join(names)})" if names else ""


ALTERNATIVES: dict[Any, Callable[[Flow, Node], list[Alternative]]] = {}


def alternatives(
    *targets: Any,
) -> Callable[
    [Callable[[Flow, Node], list[Alternative]]], Callable[[Flow, Node], list[Alternative]]
]:
    """Register a function that lists the ways to meet the equation of ``targets``."""

    def register(
        function: Callable[[Flow, Node], list[Alternative]],
    ) -> Callable[[Flow, Node], list[Alternative]]:
        for target in targets:
            ALTERNATIVES[target] = function
        return function

    return register


def describe(node: Node) -> str:
    """A node for a message: its name, and the module it stands in."""
    path = module_path(node)
    return f"{node.name} (in {path})" if path else node.name


def _role(node: Node) -> str:
    """A node on the way of a scale; a sum of what two modules made is called a residual add."""
    operands = [n for n in node.all_input_nodes if n.op != "get_attr"]
    joins = len({module_path(operand) for operand in operands}) > 1
    if node.target is torch.ops.aten.add.Tensor and joins:
        return f"the residual add {describe(node)}, which reads it too"
    shared = [n for n in node.all_input_nodes if n.op == "get_attr" and len(n.users) > 1]
    if shared and len(operands) == 1:
        return f"{describe(node)}, which shares {shared[0].target}"
    return node.name


def _apply(flow: Flow, node: Node) -> None:
    """Check the equation of one node."""
    if node.op == "placeholder":
        _carry_state(flow, node) if node in flow.states else flow.pin(
            node, f"it depends on the model's own input {node.meta.get('input', node.name)}"
        )
    elif node.op == "output":
        for value in node.all_input_nodes:
            if value in flow.states:
                _carry_state(flow, value)
            else:
                flow.pin(value, "it is an output of the model")
    elif node.op == "call_function":
        known = RULES.get(node.target)
        if known is not None:
            known(flow, node)
        else:
            _refuse(flow, node)


def _carry_state(flow: Flow, node: Node) -> None:
    """A state comes back as it left: labels of both ends agree, merged where sizes differ."""
    other = flow.states[node]
    labels = flow.get(node)
    mine, theirs = flow.shapes.shape(node), flow.shapes.shape(other)
    differing = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    flow.assign(other, merge_axes(flow.classes, labels, differing))


def _refuse(flow: Flow, node: Node) -> None:
    """An operation without a rule: nothing that it reads or makes may be scaled."""
    name = getattr(node.target, "__name__", str(node.target)).removesuffix(".default")
    reason = f"{describe(node)}: a scale cannot pass through {name}"
    if name.split(".")[0].rstrip("_") not in NOT_HOMOGENEOUS:
        reason = f"{describe(node)}: awqc has no rule for {name}"
    for value in [*node.all_input_nodes, *flow.outputs(node).values()]:
        flow.pin(value, reason)

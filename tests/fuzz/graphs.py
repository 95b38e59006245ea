"""Random graphs, in the manner of NNSmith (arXiv 2207.13066): compiled, and run at many sizes.

A graph is named by its ``kind``, the names of its steps and a seed, all of which shrink; there is
one for each number, to count them, and a strategy, to draw them. A find
is an output that differs in silence: torch, onnxruntime and OpenVINO must give the same for the
quantized graph, at every size that the exported file says it takes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import awqc
from awqc.capture.module import capture_module
from awqc.errors import AwqcError
from awqc.passes.canonicalize import Canonicalize
from awqc.runtimes.base import find_runtime
from tests.channels.proving import prove_folds
from tests.channels.random_nets import STEPS as TOKEN_STEPS
from tests.channels.random_nets import WIDTH, RandomNet
from tests.fuzz.ledger import Look
from tests.fuzz.random_images import STEPS as IMAGE_STEPS
from tests.fuzz.random_images import RandomImageNet

RUNTIMES = ("onnxruntime", "openvino")
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest value: the limit of verification in float32."""

SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "tokens": ((2, 6), (1, 1), (3, 7), (2, 13)),
    "images": ((2, 16, 16), (1, 17, 19), (3, 8, 23), (1, 31, 12)),
}
"""Sizes of the free axes; the first are the example's."""


@dataclass(frozen=True)
class Graph:
    """One random network.

    Attributes:
        kind: what flows: ``tokens`` or ``images``.
        steps: names of what happens to it.
        seed: of everything that the names leave open.
        embedded: whether tokens are whole numbers, looked up in a table.
    """

    kind: str
    steps: tuple[str, ...]
    seed: int
    embedded: bool = False

    def module(self) -> nn.Module:
        """The network, with weights from the seed."""
        names = list(self.steps)
        if self.kind == "images":
            return RandomImageNet(names, self.seed).eval()
        return RandomNet(names, self.seed, self.embedded).eval()

    def inputs(self, sizes: tuple[int, ...], seed: int = 0) -> Tensor:
        """An input whose free axes have ``sizes``."""
        generator = torch.Generator().manual_seed(seed)
        if self.embedded:
            return torch.randint(0, 11, sizes, generator=generator)
        shape = (sizes[0], 3, *sizes[1:]) if self.kind == "images" else (*sizes, WIDTH)
        return torch.randn(shape, generator=generator)


STEPS: dict[str, Sequence[str]] = {"tokens": TOKEN_STEPS, "images": IMAGE_STEPS}
MOST_STEPS = 6


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs of up to `MOST_STEPS` steps."""
    kind = draw(st.sampled_from(list(STEPS)))
    steps = st.sampled_from(STEPS[kind])
    names = tuple(draw(st.lists(steps, min_size=1, max_size=MOST_STEPS)))
    embedded = kind == "tokens" and draw(st.booleans())
    return Graph(kind, names, draw(st.integers(0, 2**20)), embedded)


def numbered(number: int) -> Graph:
    """The graph of a number: as random as those of `graphs`."""
    draw = random.Random(number)
    kind = draw.choice(list(STEPS))
    names = tuple(draw.choices(STEPS[kind], k=draw.randint(1, MOST_STEPS)))
    return Graph(kind, names, draw.randrange(2**20), kind == "tokens" and draw.random() < 0.5)


@contextmanager
def looking() -> Iterator[Look]:
    """Looks at the graph of a number; a find is told as a smaller one, if that fails too."""

    def look(number: int) -> list[str]:
        graph = numbered(number)
        try:
            outcome = check(graph)
        except Exception as error:
            small = shrunk(graph)
            raise AssertionError(f"{small}: {failure(small)}") from error
        if outcome.refused is None:
            return ["compared", *["sizes compared"] * outcome.sizes]
        return ["refused", "refused: " + " ".join(outcome.refused.split()[:4])]

    yield look


def shrunk(graph: Graph) -> Graph:
    """``graph``, which fails, without the steps without which it fails as well."""
    index = 0
    while index < len(graph.steps) > 1:
        fewer = replace(graph, steps=graph.steps[:index] + graph.steps[index + 1 :])
        if failure(fewer) is not None:
            graph = fewer
        else:
            index += 1
    return graph


def failure(graph: Graph) -> str | None:
    """How the check of ``graph`` fails."""
    try:
        check(graph)
    except Exception as error:  # noqa: BLE001 - every kind of failure is a find
        return f"{type(error).__name__}: {error}"
    return None


@dataclass(frozen=True)
class Outcome:
    """What became of a graph: ``sizes`` that were compared, or why it was ``refused``."""

    sizes: int = 0
    refused: str | None = None


def check(graph: Graph) -> Outcome:
    """Fold, compile and run ``graph``; a refusal with a reason is no find.

    Raises:
        AssertionError: an output differs, or a fold moves one.
    """
    example, *calib = (graph.inputs(SIZES[graph.kind][0], seed) for seed in range(4))
    dynamic = {"x": [0, 2, 3] if graph.kind == "images" else [0, 1]}
    try:
        program = capture_module(graph.module(), (example,), dynamic=dynamic)
        compiled = awqc.compile(
            program.clone(), calib=[(x,) for x in calib], bits=8, group_size=-1, effort="fast",
            formats=("onnx",), provider="cpu", verify_with=RUNTIMES, max_loss=math.inf,
        )  # fmt: skip
    except AwqcError as error:
        return Outcome(refused=f"{type(error).__name__}: {error}".splitlines()[0])
    Canonicalize().apply(program)
    program.tidy()
    prove_folds(program)  # Factors are powers of two, which change no digit in float32 either.
    loaded = {
        name: find_runtime(name).open_model(compiled.folder / "model.onnx", exact=True)
        for name in RUNTIMES
    }
    count = 0
    for x, wanted in _accepted(graph, loaded[RUNTIMES[0]].inputs[0].shape):
        where = f"{graph} at {tuple(x.shape)}"
        _check_same(f"{where}: captured", program.run({program.inputs[0].name: x})[0], wanted)
        with torch.no_grad():
            quantized = compiled.graph_module(x)
        for name, model in loaded.items():
            (found,) = model.run({model.inputs[0].name: x})
            _check_same(f"{where}: {name}", found, quantized)
        count += 1
    return Outcome(sizes=count)


def _accepted(graph: Graph, shape: Sequence[object]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs that fit ``shape``, of which the network makes numbers, with the network's outputs."""
    module = graph.module()
    for sizes in SIZES[graph.kind]:
        x = graph.inputs(sizes, 9)
        if any(isinstance(s, int) and s != n for s, n in zip(shape, x.shape, strict=True)):
            continue
        try:
            with torch.no_grad():
                wanted = module(x)
        except (RuntimeError, ValueError, IndexError):
            continue  # Too small an image for what the network does.
        if wanted.numel() and not bool(wanted.isnan().any()):  # What overflows may do so anywhere.
            yield x, wanted


def _check_same(where: str, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape, f"{where}: {tuple(found.shape)}, not {tuple(wanted.shape)}"
    size = float(wanted.abs().nan_to_num(posinf=0).max())
    change = float((found.double() - wanted.double()).abs().nan_to_num(posinf=0).max())
    assert change <= TOLERANCE * max(size, 1e-3), f"{where}: off by {change / size}"
    assert bool((torch.isfinite(found) == torch.isfinite(wanted)).all()), where

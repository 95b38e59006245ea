"""What passes learn about a program, and which facts they may rely on.

Findings speak of a graph by the names of its nodes and weights. They are frozen: a pass that
learns something gives the program a new record (`awqc.program.Program.learn`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from awqc.graph.sites import Site, SiteScale
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.request import Cut
from awqc.numerics.statistics import Statistics


class Fact(Enum):
    """Something that holds of a program after a pass, and that a later pass may rely on."""

    OBSERVERS = "observers"
    """The graph holds observers, which calibrate takes out."""
    SITES = "sites"
    """It is known where scales may go."""
    MOMENTS = "moments"
    """Observers keep all second moments of what products read, and so do statistics."""
    SAMPLES = "samples"
    """Observers keep tokens as they are, and so do statistics."""
    STATISTICS = "statistics"
    """What products read in calibration is known."""
    SCALES = "scales"
    """The scales of sites are chosen."""
    CODES = "codes"
    """Weights are quantized."""
    TEACHER = "float-outputs"
    """What the float model gives for the data is kept, as far as something is to be tuned."""
    HALF = "half-casts"
    """The program was made to compute in half precision."""

    def __str__(self) -> str:
        return self.value


Facts = frozenset[Fact]
NO_FACTS: Facts = frozenset()


@dataclass(frozen=True)
class Decisions:
    """What becomes of each weight.

    Attributes:
        formats: of the weights that are quantized, by name.
        tables: names of those that are embedding tables, shared with a product or not.
        refused: why the others are left in float, by name.
        fallbacks: why some have another format than the one asked for by name.
    """

    formats: Mapping[str, WeightFormat]
    tables: frozenset[str]
    refused: Mapping[str, str]
    fallbacks: Mapping[str, str]

    def of(self, names: Set[str]) -> Decisions:
        """What becomes of the weights called ``names``."""
        return Decisions(
            {name: form for name, form in self.formats.items() if name in names},
            self.tables & names,
            {name: why for name, why in self.refused.items() if name in names},
            {name: why for name, why in self.fallbacks.items() if name in names},
        )


@dataclass(frozen=True)
class WeightError:
    """What rounding did to one weight.

    Attributes:
        weight: ``|Q - W| / |W|``.
        output_sqnr_db: of the output of its product when it alone is quantized, over the
            calibration data; None where there was none, or no error.
    """

    weight: float
    output_sqnr_db: float | None


@dataclass(frozen=True)
class FloatLayer:
    """What a product gave when its weight was float, after folding.

    Attributes:
        op: of the operation.
        node: name of its node.
        sample: some of its output for one batch, evenly spaced.
    """

    op: str
    node: str
    sample: Tensor


FLOAT = ""
"""In place of the name of a format: the weight is left in float."""


@dataclass(frozen=True)
class Allocation:
    """Widths and groups of their own for weights.

    Attributes:
        widths: bits of each weight, by name.
        groups: columns a scale, of those weights that were given another size, by name.
        formats: names of formats of each weight that was given one, or `FLOAT`, by name.
        curve: bytes and predicted loss of the best choices from the smallest to the largest.
        size: bytes of these weights at the chosen widths.
        loss: predicted distance from the float model's outputs.
    """

    widths: Mapping[str, int]
    curve: tuple[tuple[int, float], ...] = ()
    size: int = 0
    loss: float = 0.0
    formats: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("widths", "formats", "groups"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def cut(self, name: str) -> Cut | None:
        """What was chosen for the weight ``name``, if it was."""
        width = self.widths.get(name)
        return None if width is None else Cut(width, self.groups.get(name))


@dataclass(frozen=True)
class GgufPlace:
    """Where a tensor of a GGUF file comes from.

    Attributes:
        source: name of the parameter in the original model.
        rows: for each row of the file the one of the parameter; None: they lie in its order.
        transposed: whether columns of the parameter are rows of the file.
        factor: what the parameter is multiplied by; ``shift`` is added then.
    """

    source: str
    rows: Tensor | None = None
    transposed: bool = False
    factor: float = 1.0
    shift: float = 0.0

    @property
    def same_values(self) -> bool:
        """Whether values are the parameter's own, wherever they lie."""
        return self.factor == 1.0 and self.shift == 0.0


@dataclass(frozen=True)
class GgufTarget:
    """The GGUF file that an export takes its names and metadata from.

    Attributes:
        path: of the file.
        places: of its tensors, by their names in it.
    """

    path: Path
    places: Mapping[str, GgufPlace]


@dataclass(frozen=True)
class Tuning:
    """What tuning the scales on the whole model's outputs came to.

    Attributes:
        kept: whether the tuned scales were kept.
        batches: calibration batches that it learned from.
        before: distance from the float model's outputs on batches held back; None: not measured.
        after: the same with the tuned scales.
        reason: why the scales stay as they were; empty if they were kept.
    """

    kept: bool
    batches: int = 0
    before: float | None = None
    after: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Lesson:
    """What the float model makes of one batch, up to its last piece.

    Attributes:
        batch: the inputs by name.
        values: what the last piece reads.
    """

    batch: dict[str, Tensor]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Teacher:
    """What gives the outputs of the float model without its weights, the last ones excepted.

    Attributes:
        head: the last piece of the float model: takes the values of a lesson, then ``weights``;
            gives the outputs that count.
        weights: the weights of its products.
        lessons: batches of the calibration data, in order.
    """

    head: GraphModule
    weights: tuple[Tensor, ...]
    lessons: tuple[Lesson, ...]


@dataclass(frozen=True)
class Findings:
    """What passes have learned. Mappings cannot be written to; tensors are not, by agreement.

    Attributes:
        facts: what later passes may rely on.
        settled: what becomes of each weight, where that was settled for a whole of which this is
            a part.
        sites: where scales may go, from insert-observers or load-scales.
        statistics: of what each product reads, by the product's node name, from calibrate.
        allocation: widths or formats of weights that differ from the request, from allocate-bits
            or a GGUF file.
        gguf: what a GGUF file is written after.
        scales: what the search chose, by site name, from search-scales or load-scales.
        quantized: the quantized weights by name, from quantize-weights.
        teacher: what the float model gives, kept by quantize-weights where a later pass needs it.
        errors: what rounding did to them, by name.
        tuning: what tuning their scales did, from tune-scales.
        skipped: weights and nodes left alone, with the reason.
        float_layers: what products gave before their weights were quantized, by weight.
    """

    facts: Facts = NO_FACTS
    settled: Decisions | None = None
    sites: tuple[Site, ...] = ()
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    allocation: Allocation | None = None
    gguf: GgufTarget | None = None
    scales: Mapping[str, SiteScale] = field(default_factory=dict)
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    teacher: Teacher | None = None
    errors: Mapping[str, WeightError] = field(default_factory=dict)
    tuning: Tuning | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    float_layers: Mapping[str, FloatLayer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, dict):
                object.__setattr__(self, entry.name, MappingProxyType(dict(value)))

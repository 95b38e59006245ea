"""The pass ``search-scales``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from awqc.errors import UsageError, spelled
from awqc.executor.run import NO_DATA, Run
from awqc.findings import Fact, Facts
from awqc.graph.linears import Linear, find_linears
from awqc.graph.sites import Site, SiteScale
from awqc.numerics.formats.base import WeightFormat
from awqc.numerics.statistics import Statistics
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.decisions import decide
from awqc.weights.scale_search import Part, Search

RUNTIME_CHOICES = ("auto", "never", "always")
NUMERICS = ("fp", "ort-default")


@dataclass(frozen=True)
class SearchScales(Pass):
    """Choose, for each site, the scales under which its weights quantize best.

    The loss of scales ``s`` is ``sum_i || (Q(W_i s) / s - W_i) X_i^T ||^2`` over the site's
    products, on calibration statistics.  Candidates are ``mean|x|^a / mean|w|^b`` on a grid,
    refined around the best; scale 1 is always one, so that no site gets worse than rounding
    to nearest.  Tied channels share one scale from the start.

    Where folding is refused, ``x / s`` may be computed when the model runs, by one ``mul``:
    ``runtime-scales`` says ``auto`` (if the loss falls below ``runtime-threshold`` times that
    of rounding to nearest), ``never`` or ``always`` (if the loss falls at all).
    ``runtime-numerics=ort-default`` adds to the loss what onnxruntime's default session does to
    the inputs of these products (int8 activations); ``fp`` leaves that out.
    Options: ``grid`` steps of the exponents, ``sample-rows`` of a site's weights for the grid.
    Requires: calibrate.  Source: AWQ, arXiv 2306.00978, section 3.2.
    """

    grid: int = 10
    sample_rows: int = 256
    runtime_scales: str = "auto"
    runtime_threshold: float = 0.9
    runtime_numerics: str = "fp"
    name: ClassVar[str] = "search-scales"
    keeps_output: ClassVar[bool] = True
    bars: ClassVar[Facts] = frozenset({Fact.OBSERVERS, Fact.SCALES, Fact.CODES, Fact.HALF})
    gives: ClassVar[Facts] = frozenset({Fact.SCALES})

    @property
    def needs(self) -> Facts:
        """Tokens as well, where their rounding counts."""
        samples = {Fact.SAMPLES} if self.runtime_numerics == "ort-default" else set()
        return frozenset({Fact.SITES, Fact.STATISTICS, *samples})

    def __post_init__(self) -> None:
        if self.runtime_scales not in RUNTIME_CHOICES:
            raise UsageError(
                f"runtime-scales={self.runtime_scales!r}: choose one of "
                + ", ".join(RUNTIME_CHOICES)
            )
        if self.runtime_numerics not in NUMERICS:
            raise UsageError(
                f"runtime-numerics={self.runtime_numerics!r}: choose one of {', '.join(NUMERICS)}"
            )
        if self.grid < 1 or self.sample_rows < 1:
            raise UsageError("search-scales: grid and sample-rows must be at least 1")

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Search every site that has statistics; only the record changes, not the graph."""
        linears = {linear.node.name: linear for linear in find_linears(program.graph)}
        formats = decide(program).formats

        def search(site: Site) -> tuple[Site, SiteScale | None]:
            parts = _parts(program, site, linears, formats, run.device)
            if self.runtime_numerics == "ort-default":
                if any(part.statistics.sample is None for part in parts):
                    raise UsageError(
                        "runtime-numerics=ort-default needs tokens of the activations: "
                        "insert-observers{samples=64} and calibrate must run before it (a "
                        f"file of {spelled('stats')} must have been made with "
                        f"{spelled('runtime_numerics')} too)"
                    )
                parts = [replace(part, int8_inputs=True) for part in parts]
            if not parts:
                seen = any(reader.node in program.findings.statistics for reader in site.readers)
                return site if seen else replace(site, status="refused", reason=UNSEEN), None
            return self._search(site, parts, _movable(site, linears))

        decided = list(run.each(search, program.findings.sites, "search scales"))
        chosen = {site.name: scale for site, scale in decided if scale is not None}
        program.learn(
            sites=tuple(site for site, _ in decided),
            scales={**program.findings.scales, **chosen},
        )
        return [_change(site, scale) for site, scale in decided]

    def _search(self, site: Site, parts: list[Part], movable: bool) -> tuple[Site, SiteScale]:
        """The site with what becomes of it, and its scales."""
        folds = site.status == "foldable"
        search = Search(parts, site.scales if folds else site.channels, self.sample_rows)
        nearest = search.nearest
        if folds or (movable and self.runtime_scales != "never"):
            best = search.run(self.grid)
            limit = self.runtime_threshold if self.runtime_scales == "auto" else 1.0
            if folds or best.loss < nearest * limit:
                status = site if folds else site.with_status("runtime")
                return status, SiteScale(best.scale, best.name, nearest, best.loss)
        ones = torch.ones(max(site.scales, 1))
        return site, SiteScale(ones, "identity", nearest, nearest)


UNSEEN = "no calibration data reached it; its weights are rounded unscaled"
"""Of an expert that no token was sent to, for example."""


def _change(site: Site, scale: SiteScale | None) -> Change:
    if scale is None:
        return Change(site.name, site.reason or "none of its weights is quantized", refused=True)
    losses = f"loss {scale.loss:.4g}, nearest {scale.loss_nearest:.4g}"
    return Change(site.name, f"{site.status} {scale.candidate}: {losses}")


def _parts(
    program: Program,
    site: Site,
    linears: dict[str, Linear],
    formats: Mapping[str, WeightFormat],
    device: torch.device,
) -> list[Part]:
    """The products of ``site`` that are to be quantized and were seen in calibration."""
    parts = []
    statistics = program.findings.statistics
    there: dict[int, Statistics] = {}
    tokens = {r.node: s.tokens for r in site.readers if (s := statistics.get(r.node))}
    for reader in site.readers:
        linear = linears[reader.node]
        if reader.node not in tokens or linear.weight_name not in formats:
            continue
        weight = program.weight(linear.weight_name)
        known = statistics[reader.node]
        if id(known) not in there:
            there[id(known)] = known.for_search(device)
        parts.append(
            Part(
                weight=linear.matrix(weight),
                classes=reader.classes[linear.column_channels()],
                statistics=there[id(known)],
                format=formats[linear.weight_name],
                dtype=program.scale_dtype,
                share=tokens[reader.node] / max(tokens.values()),
                device=device,
            )
        )
    return parts


def _movable(site: Site, linears: dict[str, Linear]) -> bool:
    """Whether the weights of ``site`` are read by its own products alone."""
    own = {reader.node for reader in site.readers}
    return all(
        {user.name for user in linears[reader.node].weight.users} <= own for reader in site.readers
    )

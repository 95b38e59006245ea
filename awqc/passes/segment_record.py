"""What is kept of a segment that went through all passes, and the segment made again of it.

Codes, scales and what was found are kept, and no graph: the same edits are made of them to the
same float segment. What is folded into float tensors is folded again, by the same factors. The
model is not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from awqc.findings import Findings, FloatLayer, WeightError
from awqc.graph.sites import Site, SiteScale
from awqc.numerics.formats.base import QuantizedWeight, WeightFormat
from awqc.numerics.statistics import Statistics
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.stored import store


def record_of(part: Program, changes: Sequence[Change]) -> dict[str, Any]:
    """What is found of ``part``, after all passes, as a tree of tensors."""
    found = part.findings
    return {
        "sites": {site.name: (site.status, site.reason) for site in found.sites},
        "scales": {name: vars(scale) for name, scale in found.scales.items()},
        "quantized": {
            name: {"tensors": dict(each.tensors), "shape": each.shape}
            for name, each in found.quantized.items()
        },
        "errors": {name: asdict(error) for name, error in found.errors.items()},
        "skipped": dict(found.skipped),
        "statistics": {name: vars(each) for name, each in found.statistics.items()},
        "float_layers": {name: vars(layer) for name, layer in found.float_layers.items()},
        "changes": [asdict(change) for change in changes],
    }


def restore(
    part: Program, record: Mapping[str, Any], fold: Pass, formats: Mapping[str, WeightFormat]
) -> list[Change]:
    """Let the float segment ``part`` be what it was when ``record`` was made of it.

    Args:
        part: with observers or without.
        record: what `record_of` gave.
        fold: the pass that folds scales.
        formats: of the weights that are quantized.

    Returns:
        What all passes did to it.
    """
    for node in list(part.graph.nodes):
        if node.op == "call_module":  # an observer
            part.graph.erase_node(node)
    part.tidy()
    found = _findings(part.findings, record, formats)
    part.learn(scales=found.scales, sites=_unfolded(found.sites, set(found.quantized)))
    fold.apply(part)
    part.tidy()
    reads = {str(node.target): node for node in part.graph.nodes if node.op == "get_attr"}
    for name, quantized in found.quantized.items():
        store(part, reads[name], quantized)
    part.tidy()
    part.findings = found
    return [Change(**change) for change in record["changes"]]


def _unfolded(sites: Sequence[Site], quantized: set[str]) -> tuple[Site, ...]:
    """``sites`` before folding; what is to be ``quantized`` is left out: its codes are known."""
    return tuple(
        replace(
            site,
            status="foldable" if site.status == "folded" else site.status,
            edits={name: labels for name, labels in site.edits.items() if name not in quantized},
        )
        for site in sites
    )


def _findings(
    before: Findings, record: Mapping[str, Any], formats: Mapping[str, WeightFormat]
) -> Findings:
    """What was found of the segment, of which ``before`` knows where scales may go."""
    return replace(
        before,
        sites=tuple(site.with_status(*record["sites"][site.name]) for site in before.sites),
        scales={name: SiteScale(**each) for name, each in record["scales"].items()},
        quantized={
            name: QuantizedWeight(formats[name], each["tensors"], each["shape"])
            for name, each in record["quantized"].items()
        },
        errors={name: WeightError(**each) for name, each in record["errors"].items()},
        skipped=record["skipped"],
        statistics={name: Statistics(**each) for name, each in record["statistics"].items()},
        float_layers={name: FloatLayer(**each) for name, each in record["float_layers"].items()},
    )

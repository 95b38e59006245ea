"""All fusions, in the order in which they are tried.

Each is a function of a file of its own that looks for what is computed, in whatever way it is
written, builds the fused form beside it, and lets `awqc.fusion.proof` compare the two on made-up
inputs before one takes the other's place. None knows a model by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import onnx_ir.passes.common as passes

from awqc.fusion.cache import can_share, measure_past
from awqc.fusion.cached_attention import fuse_cached_attention
from awqc.fusion.casts import settle_casts
from awqc.fusion.inner_rotations import turn_inside
from awqc.fusion.logits import start_logits
from awqc.fusion.lookups import drop_whole_lookups
from awqc.fusion.mixtures import fuse_experts
from awqc.fusion.norms import fuse_skip_norms
from awqc.fusion.packed_heads import pack_heads
from awqc.fusion.recurrences import fuse_recurrences
from awqc.fusion.tidy import drop_idle, join_unsqueezes
from awqc.fusion.uncached_attention import fuse_attention
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.kv_cache import PLACES, ROW_BY_ROW, SHARED_CACHE
from awqc.targets.base import CACHED_ATTENTION, Target

FUSIONS: tuple[Callable[[Workbench], None], ...] = (
    drop_whole_lookups,
    settle_casts,
    fuse_skip_norms,
    settle_casts,  # of the weights of norms
    fuse_cached_attention,
    fuse_attention,
    fuse_experts,
    fuse_recurrences,
    turn_inside,
    pack_heads,
    measure_past,
    start_logits,
)
APART = "awqc.apart"
"""Metadata of a model: what was not fused, with reasons, as JSON."""


def fuse(model: Any, target: Target) -> None:
    """Fuse in ``model`` what ``target`` gains by, in place; metadata tell what stayed apart."""
    drop_idle(model.graph)
    join_unsqueezes(model.graph)
    passes.CommonSubexpressionEliminationPass()(model)
    model.opset_imports[CONTRIB] = 1
    bench = Workbench(model, target)
    for fusion in FUSIONS:
        fusion(bench)
        bench.shared.clear()  # what nothing reads is taken out
        passes.RemoveUnusedNodesPass()(model)
        model.graph.sort()
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    model.metadata_props[APART] = json.dumps(bench.apart, sort_keys=True)
    if target.shared_cache and can_share(model.graph):
        model.metadata_props[SHARED_CACHE] = "1"
    if bench.counts_places:
        model.metadata_props[PLACES] = "1"
    if bench.found[CACHED_ATTENTION]:
        model.metadata_props[ROW_BY_ROW] = "1"

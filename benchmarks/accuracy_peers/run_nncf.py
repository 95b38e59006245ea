"""NNCF: weight compression in torch, with AWQ, and with scale estimation on top.

What AWQ scales it folds; a multiply that stayed would be a hook, which is refused here.
"""

from __future__ import annotations

import nncf
from common import Answer, NotOfferedError, Request, linears, run
from torch import nn

SEQUENCES = 16
HOOK = "__nncf_hooks"
METHODS = {
    "awq": {"awq": True},
    "awq-scale-estimation": {"awq": True, "scale_estimation": True},
    "mixed": {"awq": True, "scale_estimation": True},
}
HEAD_AND_TABLE = [".*lm_head.*", ".*embed_tokens.*"]
RATIO = 0.88
"""Share of weights that ``mixed`` leaves at 4 bits: 4.75 bits a weight with groups of 64."""


def quantize(request: Request, model: nn.Module) -> Answer:
    if request.bits != 4:
        raise NotOfferedError(f"compress_weights has no {request.bits}-bit mode")
    layers, mixed = linears(model), request.method == "mixed"
    few = request.first(SEQUENCES)
    compressed = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_ASYM,
        ratio=RATIO if mixed else 1.0,
        group_size=request.group_size,
        dataset=nncf.Dataset(list(few.batches())),
        subset_size=len(few.ids),
        backup_mode=nncf.BackupMode.INT8_ASYM if mixed else nncf.BackupMode.NONE,
        ignored_scope=nncf.IgnoredScope(patterns=HEAD_AND_TABLE, validate=False),
        all_layers=True if mixed else None,
        **METHODS[request.method],
    )
    hooks = {name: hook for name, hook in compressed.named_modules() if HOOK in name}
    state = compressed.state_dict()
    names = [name for name in state if "norm" in name and HOOK not in name]
    weights = {name: state[name] for name in names}
    skipped, eight = [], set()
    for name, layer in layers.items():
        path = f"{HOOK}.post_hooks.{name.replace('.', ':')}:weight__0.0"
        if path in hooks:
            hook = hooks.pop(path)
            weights[f"{name}.weight"] = hook(layer.weight)
            if type(hook).__name__.startswith("INT8"):
                eight.add(name)
        else:
            skipped.append(f"{name} left in float")
    unknown = [name for name, hook in hooks.items() if next(hook.children(), None) is None]
    if [name for name in unknown if name.split(".")[-1].isdigit()]:
        raise RuntimeError(f"{unknown[0]}: no hook that decompresses a weight")
    return Answer(
        weights,
        zero_point_bits=request.bits,
        samples=len(few.ids),
        notes=tuple(skipped),
        eight=frozenset(eight),
    )


run(quantize)

"""NNCF: weight compression in torch, with AWQ, and with scale estimation on top.

What AWQ scales it folds where it knows how; elsewhere a multiply stays before the linear layer, and
is multiplied into the weight here.
"""

from __future__ import annotations

import nncf
from common import Answer, NotOfferedError, Request, beside, linears, run
from torch import Tensor, nn

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


def multiplies(model: nn.Module, layers: dict[str, nn.Linear]) -> dict[str, Tensor]:
    """What each linear layer's input is multiplied by at run time.

    NNCF names such a place by the modules that are called, lists left out, and counts calls.
    """
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    calls: dict[str, list[str]] = {}
    for name in layers:
        parts = name.split(".")
        steps = [".".join(parts[: end + 1]) for end in range(len(parts))]
        called = [
            part
            for part, step in zip(parts, steps, strict=True)
            if step not in lists and step.rpartition(".")[0] not in lists
        ]
        calls.setdefault("/".join(called), []).append(name)
    found = {}
    for path, hook in model.named_modules():
        if type(hook).__name__ == "SQMultiply":
            place, _, count = path.split(".")[2].partition("__")[0].rpartition("/linear/")
            found[calls[place][int(count)]] = hook.scale.detach().flatten()
    return found


def quantize(request: Request, model: nn.Module) -> Answer:
    if request.bits != 4:
        raise NotOfferedError(f"compress_weights has no {request.bits}-bit mode")
    names = set(model.state_dict())
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
    weights = beside(compressed, names)
    scales = multiplies(compressed, layers)
    skipped, eight = [], set()
    for name, layer in layers.items():
        path = f"{HOOK}.post_hooks.{name.replace('.', ':')}:weight__0.0"
        if path in hooks:
            hook = hooks.pop(path)
            weights[f"{name}.weight"] = hook(layer.weight) * scales.get(name, 1.0)
            if type(hook).__name__.startswith("INT8"):
                eight.add(name)
        else:
            skipped.append(f"{name} left in float")
    for path, hook in hooks.items():
        if path.rpartition(".")[2].isdigit() and type(hook).__name__ != "SQMultiply":
            raise RuntimeError(f"{path}: a hook that decompresses no weight")
    return Answer(
        weights,
        zero_point_bits=request.bits,
        samples=len(few.ids),
        runtime_scales=sum(scale.numel() for scale in scales.values()),
        notes=tuple(skipped),
        eight=frozenset(eight),
    )


run(quantize)

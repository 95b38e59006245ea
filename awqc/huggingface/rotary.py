"""Rotary embeddings that update themselves, made constant for the lengths that they begin with.

        before:  frequencies = long if longest position > switch else short
        after:   frequencies = short                                        up to ``switch`` tokens

A graph has one set of frequencies: which one is in use depends on the values of positions.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from awqc.huggingface.config_values import changing_rotary, rotary_switches

CONSTANT = "default"


def fix_rotary(model: nn.Module) -> int | None:
    """Let the rotary embeddings in ``model`` stay as they are made; the tokens this holds for.

    None where none of them changes.
    """
    limits: list[int] = []
    module: Any
    for module in model.modules():
        kind: Any = getattr(module, "rope_type", None)
        kinds = kind if isinstance(kind, dict) else {"": kind}
        if not any(map(changing_rotary, kinds.values())):
            continue
        limits += rotary_switches(getattr(module, "config", None) or model.config)
        fixed = {key: CONSTANT if changing_rotary(one) else one for key, one in kinds.items()}
        module.rope_type = fixed if isinstance(kind, dict) else fixed[""]
    return min(limits, default=None)
